"""``python -m har_sweep``: train, evaluate and measure image backbones so that they can be compared."""

from __future__ import annotations

import argparse
import sys

USAGE = "python -m har_sweep [-m] [group=option ...] [key=value ...]"
EXAMPLES = """\
examples:
  python -m har_sweep -m model=resnet18,vit_base,vit_tiny
  python -m har_sweep -m experiment=paper model=resnet18,vit_base,vit_tiny seed=0,1,2
  python -m har_sweep data=folder data.root=photos model=timm model.timm_name=convnext_nano
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a sweep and return the exit status: 0 all done, 1 some failed, 2 bad input, 130 interrupted."""
    about = "Train, evaluate and measure image backbones so that they can be compared."
    parser = argparse.ArgumentParser(prog="har_sweep", usage=USAGE, description=about, add_help=False)
    parser.add_argument("-m", "--multirun", action="store_true", help="key=a,b sweeps over a and b")
    parser.add_argument("-h", "--help", action="store_true", help="this, with every group and key")
    parser.add_argument("-c", "--cfg", action="store_true", help="print the composed configuration and stop")
    parser.add_argument("-v", "--version", action="store_true", help="print the version and stop")
    parser.add_argument("overrides", nargs="*", help="group=option or key=value")
    args = parser.parse_args(arguments)
    if args.version:
        from importlib.metadata import version

        print(f"har_sweep {version('har_sweep')}")
        return 0
    if args.help:
        print(help_text(parser))
        return 0

    from har_sweep.errors import InputError
    from har_sweep.launch.terminal import Screen

    screen = Screen()
    try:
        if args.cfg:
            print(composed(args.overrides))
            return 0
        from har_sweep.config.compose import refuse_sweep
        from har_sweep.launch.sweep import sweep

        if not args.multirun:
            refuse_sweep(args.overrides)
        return sweep(args.overrides, screen)
    except InputError as e:
        screen.error(e.message, e.hint)
        return 2
    except KeyboardInterrupt:
        screen.warn("Interrupted. Give the same command again to go on from here.")
        return 130


def composed(overrides: list[str]) -> str:
    """The configuration that the overrides come to, as YAML."""
    from omegaconf import OmegaConf

    from har_sweep.config.compose import compose

    return OmegaConf.to_yaml(OmegaConf.structured(compose(overrides)))


def help_text(parser: argparse.ArgumentParser) -> str:
    """Flags, groups with their options, and every key with its type's default and meaning."""
    from har_sweep.config.compose import groups
    from har_sweep.config.schema import keys

    lines = [parser.format_help(), EXAMPLES, "groups (group=option):"]
    lines += [f"  {name + ':':15} {', '.join(options)}" for name, options in groups().items()]
    lines += ["", "keys (key=value), with the default where no group sets another:"]
    for key in keys():
        shown = key.path + ("=" + ("null" if key.default is None else str(key.default)))
        choices = f" [{' | '.join(key.metadata['choices'])}]" if "choices" in key.metadata else ""
        lines.append(f"  {shown:42} {key.metadata['doc']}{choices}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
