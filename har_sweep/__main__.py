"""``python -m har_sweep``: train, evaluate and measure image backbones so that they can be compared."""

from __future__ import annotations

import os
import sys
import traceback

ABOUT = """\
Train, evaluate and measure image backbones so that they can be compared.

usage: python -m har_sweep [-m] [group=option ...] [key=value ...]

examples:
  python -m har_sweep -m model=resnet18,vit_base,vit_tiny
  python -m har_sweep -m experiment=paper model=resnet18,vit_base,vit_tiny seed=0,1,2
  python -m har_sweep data=folder data.root=photos model=timm model.timm_name=convnext_nano

flags:
  -m, --multirun                key=a,b sweeps over a and b, as do range(), choice() and glob()
  -c, --cfg job|hydra|all       print the composed configuration and stop; --resolve, --package
  -i, --info [WHAT]             all, config, defaults, defaults-tree, plugins or searchpath
  -cn, -cd, -cp                 --config-name, --config-dir, --config-path: configs of your own
  -sc, --shell-completion       eval "$(har_sweep -sc install=bash)", or zsh, fish
  --hydra-help                  what Hydra takes beside this; --experimental-rerun FILE
  -h, --help; --version         this, with every group and key; the version
"""
STARTERS = {"hydra/launcher": ["local", "slurm"], "hydra/sweeper": ["har_sweep", "optuna, if installed"]}


def main(arguments: list[str] | None = None) -> int:
    """Run a sweep and return the exit status: 0 all done, 1 some failed, 2 bad input, 130 interrupted, 141 if whoever
    read what is printed (``| head``) has gone."""
    try:
        status = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        from har_sweep.console import BROKEN_PIPE

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python prints what is left as it ends
        return BROKEN_PIPE
    return status


def _main(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    if "--version" in arguments:
        from importlib.metadata import version

        print(f"har_sweep {version('har_sweep')}, Hydra {version('hydra-core')}")
        return 0

    from har_sweep.errors import InputError, system_errors_told

    try:
        from har_sweep.app import run_hydra

        with system_errors_told():
            return run_hydra(arguments).status
    except InputError as e:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        from har_sweep.launch.terminal import Screen

        Screen().error(e.message, e.hint)
        return 2
    except KeyboardInterrupt:
        from har_sweep.launch.terminal import Screen

        Screen().warn("Interrupted. Give the same command again to go on from here.")
        return 130


def help_text() -> str:
    """Flags, groups with their options, and every key with its type's default and meaning."""
    from har_sweep.config.schema import SlurmLauncher, keys
    from har_sweep.config.tree import groups

    lines = [ABOUT, "groups (group=option):"]
    lines += [f"  {name + ':':15} {', '.join(options)}" for name, options in {**groups(), **STARTERS}.items()]
    lines += ["", "keys (key=value), with the default where no group sets another:"]
    for key in (*keys(), *keys(SlurmLauncher, "hydra.launcher.")):
        shown = key.path + ("=" + ("null" if key.default is None else str(key.default)))
        choices = f" [{' | '.join(key.metadata['choices'])}]" if "choices" in key.metadata else ""
        lines.append(f"  {shown:42} {key.metadata['doc']}{choices}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
