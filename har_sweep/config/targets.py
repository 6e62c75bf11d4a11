"""Parts that are not ours: what ``_target_`` names, which version of it that is, and making it.

Only ``load``, and what calls it, imports anything that is named.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from har_sweep.config.schema import Config
from har_sweep.config.sections import SECTIONS
from har_sweep.errors import InputError, RunFailure, nearest

WANTED = {
    "model": "It should be a function that is called with num_classes and returns an nn.Module.",
    "optimizer": "It should be a subclass of torch.optim.Optimizer.",
    "scheduler": "It should be a subclass of torch.optim.lr_scheduler.LRScheduler.",
    "augmentation": "It should be a function, or a class of objects, that maps uint8 images [B, 3, H, W] to others.",
    "data": "It should be a function that lists (path, label) or (path, label, split).",
}
"""What each section's target should be."""


def targets_of(config: Config) -> list[str]:
    """Everything that a run's config names by ``_target_``, in arguments too; of data, the listing counts instead."""
    parts = [getattr(config, name) for name in SECTIONS if name != "data"]
    found = [part._target_ for part in parts if part._target_]
    return list(dict.fromkeys([*found, *(t for part in parts for t in nested(part.arguments))]))


def nested(value: Any) -> Iterator[str]:
    """What arguments name by ``_target_``, at any depth."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    for each in value if isinstance(value, list) else []:
        yield from nested(each)


def version_of(target: str) -> str:
    """``torch==2.14.1`` for what an installed package holds, else ``sha256:...`` of the file, or of its whole package,
    and of all that they import from beside them.

    Nothing is imported.

    Raises
    ------
    InputError
        if there is no such module.
    """
    top = target.split(".")[0]
    if top in sys.stdlib_module_names:
        return "python=={}.{}.{}".format(*sys.version_info[:3])
    package = _find(top, None)
    if package is None:
        raise _missing(target, f"there is no module '{top}'")
    for distribution in _distributions().get(top, ()):
        installed = Path(str(importlib.metadata.distribution(distribution).locate_file(""))).resolve()
        places = [package.origin, *(package.submodule_search_locations or ())]
        if any(place and Path(place).resolve().is_relative_to(installed) for place in places):
            return f"{distribution}=={importlib.metadata.version(distribution)}"
    digest = hashlib.sha256()
    sources = _sources(target, package)
    beside = Path(next(iter(package.submodule_search_locations or ()), sources[0])).parent
    for file in _with_imports(sources, beside):
        place = os.path.relpath(file, Path(package.origin or file).parent)
        digest.update(place.encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


_distributions = functools.cache(importlib.metadata.packages_distributions)  # half a second


def _find(name: str, where: list[str] | None) -> ModuleSpec | None:
    """A module's place. Unlike ``importlib.util.find_spec`` this imports no parent."""
    importable_from_here()
    specs = (finder.find_spec(name, where) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec), None)


def _sources(target: str, package: ModuleSpec) -> list[Path]:
    """The module's file; of a package all of its own, since one imports another."""
    if package.origin and not package.submodule_search_locations:
        return [Path(package.origin)]
    if package.origin:
        return sorted(Path(package.origin).parent.rglob("*.py"))
    name, places = package.name, list(package.submodule_search_locations or ())  # a folder without __init__.py
    for part in target.split(".")[1:]:
        name = f"{name}.{part}"
        found = _find(name, places)
        if found is None:
            break
        if found.origin:
            return _sources(target, found)
        places = list(found.submodule_search_locations or ())
    raise _missing(target, f"there is no module '{name}'")


def _with_imports(sources: Iterable[Path], beside: Path) -> list[Path]:
    """Sources, what they import of the modules in the folder ``beside``, what those import, and so on."""
    found = dict.fromkeys(sources)
    waiting = [file for file in found if file.suffix == ".py"]
    while waiting:
        file = waiting.pop()
        for level, name in _imports(file.read_bytes()):
            place = file.parents[level - 1] if level else beside
            for part in name.split("."):
                place /= part
                modules = (module for module in (place.with_suffix(".py"), place / "__init__.py") if module.is_file())
                new = [module for module in modules if module not in found]
                found |= dict.fromkeys(new)
                waiting += new
    return sorted(found)


@functools.cache
def _imports(source: bytes) -> list[tuple[int, str]]:
    """The level (1 for ``from .``) and the dotted name of all that a module's text imports, wherever it does."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # said where it is imported
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names]
    return found


def check_unchanged(config: Config) -> None:
    """What a run does first: it must be what was planned, however long it waited in a queue.

    Raises
    ------
    RunFailure
        ``target``, if another version is here.
    """
    for target, planned in config.targets.items():
        if (here := version_of(target)) != planned:
            raise RunFailure(
                "target",
                f"{target} has changed since this run was planned: it was {planned[:19]}, and is {here[:19]}.",
                "Give the same command again: it plans a run of what is there now.",
            )


def load(target: str) -> Any:
    """What an import path names, as ``python -m`` would find it: in the folder of the command too.

    Raises
    ------
    InputError
        if there is no such thing, with the nearest name that there is.
    """
    importable_from_here()
    parts = target.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name and (name == e.name or name.startswith(f"{e.name}.")):
                continue
            raise InputError(f"{target} cannot be imported: {e}.", "Install what it needs.") from e
        except Exception as e:
            raise InputError(f"{target} cannot be imported: {type(e).__name__}: {e}", f"Repair {name}.") from e
        for attribute in parts[count:]:
            if not hasattr(found, attribute):
                raise _missing(target, f"{name} has no '{attribute}'", nearest(attribute, dir(found)))
            found, name = getattr(found, attribute), f"{name}.{attribute}"
        return found
    raise _missing(target, f"there is no module '{parts[0]}'")


def _missing(target: str, why: str, near: str = "") -> InputError:
    where = (
        f"Write package.module.name; modules are found beside installed packages in {Path.cwd()}, and on PYTHONPATH."
    )
    return InputError(f"_target_={target} does not exist: {why}.", near or where)


def importable_from_here() -> None:
    """Let modules in the folder of the command be imported, as under ``python -m``, in every process of a run."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def make(section: str, target: str, arguments: dict[str, Any], *given: Any, **named: Any) -> Any:
    """Call what ``target`` names with ``given``, ``named`` and its arguments, in which further targets are made first.

    Raises
    ------
    InputError
        in the words of the exception that it raised.
    """
    return called(section, target, lambda: load(target)(*given, **made(arguments), **named))


def part_maker(section: str, target: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    """A class's object, made once; or a function that is called each time with its arguments."""

    def maker() -> Any:
        part, settings = load(target), made(arguments)
        return part(**settings) if inspect.isclass(part) else functools.partial(part, **settings)

    built: Callable[..., Any] = called(section, target, maker)
    if not callable(built):
        raise InputError(
            f"{section}._target_={target} made {type(built).__name__}, which cannot be called.", WANTED[section]
        )
    return built


def made(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with what they name by ``_target_`` in its place, by Hydra's own rules (``_args_``, ``_partial_``)."""
    if not any(True for _ in nested(arguments)):
        return arguments
    from hydra.utils import instantiate

    importable_from_here()
    return dict(instantiate(arguments, _convert_="all"))


def called(section: str, target: str, call: Callable[[], Any]) -> Any:
    """What ``call`` gives; what it raises, as an ``InputError`` about the target."""
    try:
        return call()
    except (InputError, RunFailure, MemoryError):
        raise
    except Exception as e:
        if type(e).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            raise
        why = (str(e).strip().splitlines() or ["it says nothing"])[0]
        raise InputError(
            f"{section}._target_={target} raised {type(e).__name__}: {why.rstrip('.')}.", WANTED[section]
        ) from e
