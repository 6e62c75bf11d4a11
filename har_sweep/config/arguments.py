"""What was typed: parsed, and refused in one sentence where Hydra would say less, or would read it and do nothing."""

from __future__ import annotations

import math
import os
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_origin

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException
from yaml import YAMLError

from har_sweep.config.check import ENV_COPY, FOREIGN
from har_sweep.config.schema import SlurmLauncher, keys
from har_sweep.config.sections import may_be_argument, unknown_key
from har_sweep.config.tree import CONF, LAUNCHERS, groups
from har_sweep.config.trial import SEVERAL_IN_A_TRIAL, in_trial
from har_sweep.errors import InputError, first_line, nearest

Mode = Literal["run", "sweep", "show", "hydra_help"]
HELP = "`python -m har_sweep --help` lists every key with its default."
_SLURM_NOW = {
    "gpus": "gpus_per_node",
    "gpu_type": "gpus_per_node=TYPE:N",
    "cpus": "cpus_per_task",
    "memory_gib": "mem_gb",
    "time_minutes": "timeout_min",
    "signal_seconds": "signal_delay_s",
    "extra": "additional_parameters",
}
# Of Hydra's submitit launcher, what means nothing here. Its other names are ours.
_SUBMITIT = {
    "max_num_timeout": "A run goes on in another job as often as it needs to; launch.retries is for failures.",
    "submitit_folder": "What jobs print lies in paths.runs/.slurm, or where runs are shared in ~/.har_sweep.",
    "stderr_to_stdout": "Both go into one file as it is.",
    "nodes": "A run has one node; hardware.device_count says on how many of its devices it trains.",
    "tasks_per_node": "A run is one task, which starts a process for each of hardware.device_count devices itself.",
    "gpus_per_task": "A run is one task: write hydra.launcher.gpus_per_node=N.",
    "cpus_per_gpu": "Write hydra.launcher.cpus_per_task=N, for all of the run.",
    "mem_per_gpu": "Write hydra.launcher.mem_gb=N, for all of the run.",
    "mem_per_cpu": "Write hydra.launcher.mem_gb=N, for all of the run.",
}
_SET_BY_HYDRA = "Hydra itself sets this.", "It is there to be read: ${hydra:...}."
_OWN_HELP = "har_sweep has a help of its own: --help.", "--hydra-help shows Hydra's."
_REFUSED = {
    "hydra/help": _OWN_HELP,
    "hydra.help": _OWN_HELP,
    "hydra.job.env_copy": (
        "Every process of a run has the environment of its command already.",
        "Leave it out; hydra.job.env_set sets further variables.",
    ),
    "hydra.job.id": _SET_BY_HYDRA,
    "hydra.job.num": _SET_BY_HYDRA,
    "hydra.job.config_name": ("--config-name says it.", "Write --config-name NAME."),
    "hydra.job.override_dirname": (
        _SET_BY_HYDRA[0],
        "hydra.job.config.override_dirname says how it is written, ${hydra:job.override_dirname} reads it.",
    ),
    "hydra.overrides": _SET_BY_HYDRA,
    "hydra.runtime": _SET_BY_HYDRA,
    "hydra.defaults": ("Hydra reads its defaults from files.", "Write hydra/GROUP=OPTION."),
    "hydra.aliases": ("Hydra reads aliases in the primary config alone.", "Write them there."),
}


@cache
def _hydra_keys() -> dict[str, bool]:
    """Every key of Hydra's own, and whether keys of any name may stand below it."""
    return {key.path: key.type is Any or get_origin(key.type) is dict for key in keys(HydraConf, "hydra.")}


@cache
def _hydra_groups() -> list[str]:
    return [f"hydra/{name}" for default in HydraConf().defaults for name in default]


def explain(overrides: Iterable[str], mode: Mode = "show", own_tree: bool = False) -> list[Override]:
    """Parse; refuse misspelt keys, groups and options with the nearest right one, and what would do nothing.

    With ``own_tree`` there are config files of the user's, whose options are not known here.

    Raises
    ------
    InputError
        naming the override and what to write instead.
    """
    overrides = list(overrides)
    own_tree = own_tree or any(o.startswith(("hydra.searchpath", "+hydra.searchpath")) for o in overrides)
    parsed = [_known(line, own_tree) for line in overrides]
    sweepers = [o.input_line for o in parsed if o.key_or_group == "hydra/sweeper"]
    if len(sweepers) > 1:
        raise InputError(f"{' and '.join(map(str, sweepers))}: a search has one sweeper.", "Leave all but one out.")
    _check_logging(parsed, own_tree)
    if mode == "run" and asks_for_sweep(parsed):
        mode = "sweep"
    if mode != "run" or not own_tree:  # else a file may say hydra.mode: MULTIRUN, and check_mode comes later
        for override in parsed:
            _check_mode(override, mode)
    if mode == "sweep" and in_trial():
        raise InputError(*SEVERAL_IN_A_TRIAL)
    return parsed


def asks_for_sweep(overrides: Iterable[Override]) -> bool:
    """Whether they make a sweep without ``-m``: by its key, or by an experiment of ours that is a sweep by itself."""
    return any(o.input_line == "hydra.mode=MULTIRUN" or _is_sweep(o) for o in overrides)


def _is_sweep(override: Override) -> bool:
    file = CONF / "experiment" / f"{override.value()}.yaml" if override.key_or_group == "experiment" else None
    return file is not None and file.is_file() and OmegaConf.select(OmegaConf.load(file), "hydra.mode") == "MULTIRUN"


def check_mode(overrides: Iterable[str], mode: Mode) -> None:
    """Refuse what a single run, or a sweep, would not look at.

    Raises
    ------
    InputError
        naming the override and what to write instead.
    """
    for override in overrides:
        _check_mode(_known(override, True), mode)


def _check_mode(override: Override, mode: Mode) -> None:
    line, name = str(override.input_line), override.key_or_group
    if mode == "run" and override.is_sweep_override():
        raise InputError(f"'{line}' lists several values.", "Add -m to sweep over them.")
    if mode == "run" and re.match(r"hydra[./]sweep", name):
        raise InputError(f"'{line}' is for sweeps, and this is a single run.", "Add -m.")
    if mode == "run" and name == "sweep.study_per":
        raise InputError(f"'{line}' is for a search.", "Add -m hydra/sweeper=optuna, or leave it out.")
    if mode == "sweep" and name.startswith("hydra.run."):
        raise InputError(f"'{line}' is for a single run.", "With -m, write hydra.sweep.dir=...")
    if mode == "sweep" and name == "hydra.mode" and str(override.value()) != "MULTIRUN":
        raise InputError(f"-m and '{line}' do not go together.", "Leave one out.")
    if mode in ("run", "sweep") and re.match(r"hydra[./]hydra_help", name):
        raise InputError(f"'{line}' is for --hydra-help.", "Add --hydra-help, or leave it out.")


def _check_logging(parsed: list[Override], own_tree: bool) -> None:
    """Refuse settings of a logging that is off."""
    chosen = {o.key_or_group for o in parsed}
    for override in () if own_tree else parsed:
        if (found := re.match(r"hydra\.(job_logging|hydra_logging)", override.key_or_group)) and (
            f"hydra/{found[1]}" not in chosen
        ):
            raise InputError(
                f"'{override.input_line}' would do nothing: hydra/{found[1]} is none.", f"Add hydra/{found[1]}=default."
            )


def range_length(override: Override) -> float:
    """How many values a ``range(...)`` has, about."""
    values: Any = override.value()
    steps = (values.stop - values.start) / values.step if values.step else math.inf
    return max(0.0, steps) if steps == steps else math.inf


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


@cache
def parse(line: str) -> Override:
    """An override as Hydra reads it; raises what its parser does."""
    return _parser().parse_overrides([line])[0]


@cache
def _known(line: str, own_tree: bool) -> Override:
    with explained([line]):
        override = parse(line)
    if override.value_type == ValueType.RANGE_SWEEP and not math.isfinite(range_length(override)):
        raise InputError(f"'{line}' has no end.", "Write range(START,STOP,STEP) of finite numbers, STEP not 0.")
    name = override.key_or_group
    if re.split(r"[./]", name)[0] == "hydra":
        _check_hydra(override, line, own_tree)
    elif name in groups():
        _check_group(override, line, own_tree)
    elif new := _moved(name):
        raise InputError(f"'{name}' has moved (in '{line}').", f"Write {new}.")
    elif override.is_delete() and name in types():
        raise InputError(f"'{line}' would take a key away, and every key has a value.", f"Write {name}=... instead.")
    elif name not in types() and not own_tree and not may_be_argument(name) and not any(
        path.startswith(f"{name}.") or (name.startswith(f"{path}.") and get_origin(kind) is dict)
        for path, kind in types().items()
    ):  # fmt: skip
        near = nearest(name, [*groups(), *types()])
        raise InputError(f"There is no key '{name}' (in '{line}').", near or HELP)
    return override


def _check_group(override: Override, line: str, own_tree: bool) -> None:
    name = override.key_or_group
    if not override.is_delete() and isinstance(values := override.value(), list):
        raise InputError(
            f"'{line}' is a list, and a run has one {name}.", f"Write -m {name}={','.join(map(str, values))}."
        )
    if own_tree:
        return
    sections = dict.fromkeys(path.split(".")[0] for path in types() if "." in path and path[:6] != "hydra.")
    if override.package and override.package.split(".")[0] not in ("_global_", "hydra", *sections):
        near = nearest(override.package, sections)
        if override.package == "teacher":
            near = "A teacher is named: objective=distill teacher=RUN."
        raise InputError(
            f"There is no section '{override.package}' for '{line}'.",
            f"{near} There are {', '.join(sections)}.".strip(),
        )
    for option in _options(override):
        if option not in groups()[name]:
            near = nearest(option, groups()[name])
            if name == "model":
                near = f"{near} Any architecture of timm's is model=timm model.timm_name={option}.".strip()
            raise InputError(
                f"There is no {name} '{option}'.", f"{near} There are {', '.join(groups()[name])}.".strip()
            )


def _options(override: Override) -> list[str]:
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return []
    if override.is_sweep_override():
        options = map(str, override.sweep_string_iterator())
        return [option for option in options if not option.startswith("{")]  # by model: looked at once it is one's
    value = override.value()
    return [] if isinstance(value, (dict, list)) or override.is_delete() else ["null" if value is None else str(value)]


def _check_hydra(override: Override, line: str, own_tree: bool) -> None:
    name = override.key_or_group
    for prefix, (why, instead) in _REFUSED.items():
        if f"{name}.".startswith(f"{prefix}."):
            raise InputError(f"'{line}' would do nothing. {why}", instead)
    if override.is_sweep_override():
        key, _, value = line.partition("=")
        quoted = f"'{key}=\"{value}\"'" if "params." in name else "one value"
        raise InputError(f"'{line}': Hydra's own settings cannot be swept over.", f"Write {quoted}.")
    if "/" in name:
        _check_hydra_group(override, line, own_tree)
    else:
        _check_hydra_key(override, line)


def _check_hydra_group(override: Override, line: str, own_tree: bool) -> None:
    name, value = override.key_or_group, None if override.is_delete() else override.value()
    brought = name.startswith("hydra/sweeper/")  # by a sweeper's plug-in, such as its samplers
    if name not in _hydra_groups() and not brought and not own_tree:
        near = nearest(name, _hydra_groups())
        raise InputError(
            f"Hydra has no group '{name}' (in '{line}').", f"{near} There are {', '.join(_hydra_groups())}.".strip()
        )
    if override.package and override.package.split(".")[0] != "hydra":
        raise InputError(
            f"'{line}' would put settings of Hydra's where nobody reads them.",
            f"Leave @{override.package} out.",
        )
    if override.is_delete() and name != "hydra/callbacks":
        raise InputError(f"'{line}' would take away what Hydra needs.", f"Choose another: {name}=...")
    if name == "hydra/launcher" and value not in (*LAUNCHERS, "submitit_slurm") and not own_tree:
        raise InputError(f"'{line}': {FOREIGN[0]}", FOREIGN[1])


def _check_hydra_key(override: Override, line: str) -> None:
    name, known = override.key_or_group, _hydra_keys()
    if name in ("hydra.launcher", "hydra.sweeper") and not isinstance(override.value(), dict):
        raise InputError(f"'{line}' sets a whole section.", f"Write {name.replace('.', '/')}=OPTION.")
    inside = next((key for key, is_open in known.items() if is_open and name.startswith(f"{key}.")), "")
    if name not in known and not inside:
        if below := [key for key in known if key.startswith(f"{name}.") and not _refused(key)]:
            raise InputError(f"'{line}' sets a whole section.", f"Write its keys one by one, such as {below[0]}=...")
        group = f"hydra/{name.split('.')[1]}"
        near = f"Write {group}=OPTION." if group in _hydra_groups() else nearest(name, known)
        raise InputError(f"There is no key '{name}' (in '{line}').", near or "`--cfg hydra` shows Hydra's keys.")
    if override.is_delete() and not inside:
        raise InputError(f"'{line}' would take a key away, and every key has a value.", f"Write {name}=... instead.")
    key = name.removeprefix("hydra.launcher.").split(".")[0]
    if inside == "hydra.launcher" and f"hydra.launcher.{key}" not in types():
        near = nearest(name, [path for path in types() if path.startswith("hydra.launcher.")])
        raise InputError(f"There is no key '{name}' (in '{line}').", _SUBMITIT.get(key) or near or HELP)
    if name == "hydra.searchpath":
        _check_searchpath(override.value())


def _refused(key: str) -> bool:
    return any(f"{key}.".startswith(f"{prefix}.") for prefix in _REFUSED)


def _check_searchpath(places: Any) -> None:
    """Refuse a place for configs that does not exist, which Hydra would leave out."""
    for place in places if isinstance(places, list) else []:
        kind, _, path = str(place).rpartition("://")
        try:
            module = path.replace("/", ".")
            found = bool(find_spec(module) and import_module(module)) if kind == "pkg" else os.path.isdir(path)
        except ModuleNotFoundError:
            found = False
        except Exception as e:  # whatever stands in it
            raise InputError(
                f"hydra.searchpath: the package '{path}' cannot be imported: {type(e).__name__}: {e}.", "Mend it."
            ) from e
        if kind in ("", "file", "pkg") and not found:
            raise InputError(
                f"hydra.searchpath: there is no {'package' if kind == 'pkg' else 'folder'} '{path}'.",
                "Write 'hydra.searchpath=[file:///path/to/configs]' or [pkg://package.of.configs], which Python finds "
                "here or by PYTHONPATH.",
            )


def _moved(name: str) -> str:
    """What to write for a key that has another name now, or an empty string."""
    if name == "hardware.launcher":
        return "hydra/launcher=local or hydra/launcher=slurm"
    if name == "hardware.slurm":
        return "hydra.launcher"
    if name.startswith("hardware.slurm."):
        first, *rest = name.removeprefix("hardware.slurm.").split(".")
        return ".".join(["hydra.launcher", _SLURM_NOW.get(first, first), *rest])
    return ""


@cache
def types() -> dict[str, Any]:
    """The type of every key that may be set."""
    return {key.path: key.type for key in (*keys(), *keys(SlurmLauncher, "hydra.launcher."))}


@contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions into one sentence about what the user wrote.

    Inside, what Hydra 1.5 will not take any more is not the user's to hear, and a place for configs that is not there
    is an error instead of a warning.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"(?s).*Hydra 1\.5")
            warnings.filterwarnings("ignore", "Experimental rerun CLI option")
            warnings.filterwarnings("error", r"provider=.* is not available")
            yield
    except OverrideParseException as e:
        hint = "Write key=value, or key=a,b,c with -m; quote what holds = or commas."
        if re.search(r"[=,\[]~", str(e.override)):
            hint = "Neither a shell nor Hydra reads a ~ there: write $HOME instead."
        raise InputError(f"'{e.override}' cannot be read.", hint) from e
    except UserWarning as e:
        raise InputError(f"hydra.searchpath: {str(e).partition('path=')[2]}", "Check the path.") from e
    except KeyError as e:
        # Hydra looks up each variable of hydra.job.env_copy, and one is not there.
        if any("os.environ[key]" in (frame.line or "") for frame in traceback.extract_tb(e.__traceback__)):
            raise InputError(*ENV_COPY) from e
        raise
    except (HydraException, OmegaConfBaseException) as e:
        raise _in_our_words(e, overrides) from e
    except (YAMLError, OSError, ValueError, RecursionError) as e:
        if found := _broken_file(e) or _impossible_folder(e):
            raise found from e
        raise


def _impossible_folder(e: Exception) -> InputError | None:
    """If Hydra was making the folder of a single run, why it could not."""
    frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
    for frame, inner in pairwise(frames):
        if frame.f_code.co_name in ("run_job", "_run_job") and inner.f_code.co_name in ("mkdir", "_save_config"):
            key = "hydra.run.dir" if inner.f_code.co_name == "mkdir" else "hydra.output_subdir"
            given = frame.f_locals["output_dir" if key == "hydra.run.dir" else "hydra_output"]
            why = e.strerror if isinstance(e, OSError) else first_line(e)
            return InputError(f"{key}: {given} cannot be made: {why}.", "Give another folder.")
    return None


def _broken_file(e: Exception) -> InputError | None:
    """If Hydra was reading a config file, what it met there."""
    frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
    names = [Path(frame.f_code.co_filename).name for frame in frames]
    hint = "It must be YAML in UTF-8: keys with values, and `defaults:` a list."
    if "file_config_source.py" in names:
        file = frames[names.index("file_config_source.py")].f_locals.get("full_path")
        mark = getattr(e, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = "it refers to itself" if isinstance(e, RecursionError) else getattr(e, "problem", None) or first_line(e)
        return InputError(f"{file}{where}: {why.rstrip('.')}.", hint)
    if "config_repository.py" in names or "defaults_list.py" in names:
        return InputError(f"A defaults list of a config file cannot be used: {first_line(e)}.", hint)
    return None


def _in_our_words(e: Exception, overrides: list[str]) -> InputError:
    if "issing mandatory value: " in str(e):  # met directly, or by way of another key's interpolation
        missing = str(e).splitlines()[0].split("andatory value: ")[1]
        return InputError(f"{missing} has no value, and has no default.", f"Add {missing}=...")
    cause = e.__cause__ if isinstance(e.__cause__, OmegaConfBaseException) else e
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    key: str = getattr(cause, "full_key", None) or next(
        (line.partition(": ")[2] for line in lines if "full_key: " in line), ""
    )
    if not key and isinstance(cause, InterpolationValidationError):  # OmegaConf 2.4 does not always say whose it is
        key = next((override.partition("=")[0].lstrip("+") for override in overrides if "${" in override), "")
    if isinstance(e, MissingConfigException) and (found := re.search(r"Could not find '(?:(.+)/)?(.+?)'", str(e))):
        return _no_such_file(str(e), found[1], found[2])
    if isinstance(e, MissingConfigException):
        return InputError(lines[0], "--config-dir FOLDER says where it is; leave .yaml out.")
    if composing := re.match(r"In '(.+)': \w+ raised while composing config:", lines[0]):
        return _in_file(f"{composing[1]}.yaml", key, lines[1])
    if "is not in struct" in str(cause) and may_be_argument(key):
        return unknown_key(key)
    if moved := _moved(key):
        return InputError(f"'{key}' has moved.", f"Write {moved}.")
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return InputError(f"{f'{key}: ' if key else ''}{said}", _hint(key, said, overrides))


def _no_such_file(said: str, group: str, option: str) -> InputError:
    """A file that a defaults list or the command line asks for is nowhere."""
    options = re.findall(r"\n\t(?!provider)(\S+)", said.partition("Config search path")[0])
    if group == "hydra/sweeper":
        hint = _missing_sweeper(option)
    else:
        hint = f"{nearest(option, options)} There are {', '.join(options) or 'none'}.".strip()
    place = re.match(r"In '(.+?)'", said)
    where = f" (asked for in {place[1]}.yaml)" if place and place[1] not in ("config", "hydra/config") else ""
    return InputError(f"There is no {group or 'config'} '{option}'{where}.", hint)


def _in_file(file: str, key: str, said: str) -> InputError:
    """A file of the user's has a key that does not fit."""
    if key == "hardware.launcher":
        hint = (
            "Begin the file with `# @package _global_` and write `override /hydra/launcher: slurm` (or local) in its "
            "defaults list."
        )
    elif key.startswith("hardware.slurm"):
        names = ", ".join(f"{new} for {old}" for old, new in _SLURM_NOW.items())
        hint = f"Begin the file with `# @package _global_` and write hydra.launcher: with the names of today ({names})."
    else:
        launcher = key.removeprefix("hydra.launcher.") if key.startswith("hydra.launcher.") else ""
        hint = _SUBMITIT.get(launcher) or nearest(key, [*types(), *_hydra_keys()]) or HELP
    if _moved(key):
        return InputError(f"{file}: '{key}' has moved to {_moved(key)}.", hint)
    if said.startswith("Key "):
        return InputError(f"{file}: there is no key '{key}'.", hint)
    return InputError(f"{file}: {key}: {said}", hint)


SWEEPERS = ("ax", "nevergrad", "optuna")  # of Hydra's own repository, each a package with Hydra's version


def _missing_sweeper(name: str) -> str:
    if name not in SWEEPERS:
        return nearest(name, [*SWEEPERS, "har_sweep"]) or f"Plug-ins of Hydra's are {', '.join(SWEEPERS)}."
    major, minor = version("hydra-core").split(".")[:2]
    versions = f">={major}.{minor}.0rc0,<{major}.{int(minor) + 1}.0.dev0"
    return f"It is not installed: pip install 'hydra-{name}-sweeper{versions}', which brings the {name} that fits it."


def _hint(key: str, said: str, overrides: list[str]) -> str:
    if key.startswith("hydra.callbacks") or "instantiate" in said:
        return "A callback is a class that Python finds: +hydra.callbacks.NAME._target_=package.module.Class."
    if absent := re.match(r"Could not override '(\S+)@(\S+)'", said):
        return f"No {absent[1]} is put into {absent[2]}: leave @{absent[2]} out, or put a + in front."
    if key.startswith("hydra.launcher.additional_parameters.") or said.startswith("Could not append"):
        return "Write ++key=value: it adds an entry, or replaces the one that is there."
    if key.startswith("hydra.launcher."):
        return "Only SLURM is asked for this: add hydra/launcher=slurm, or hardware=slurm_gpu."
    if said.startswith("Ambiguous value") or "requires --multirun" in said:
        return "Add -m to sweep over them."
    if again := re.match(r"Multiple values for .*'override (.+): (.+)'", said):
        return f"Leave the + out: {again[1]}={again[2]}."
    if key.startswith("hydra.sweeper"):
        return "The sweeper of hydra/sweeper=... does not know it; its documentation lists what it takes."
    if "is not in struct" in said:
        return "Write ++key=value: it adds an entry, or replaces the one that is there."
    wrote = [o for o in overrides if key and o.lstrip("+").startswith(f"{key}=")]
    doc = next((f" ({known.metadata['doc']})" for known in keys() if known.path == key), "")
    return f"You wrote '{wrote[0]}'{doc}." if wrote else HELP
