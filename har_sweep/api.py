"""What ``import har_sweep`` gives a notebook or a script: ``sweep`` is the command, ``runs`` its records as a table."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from har_sweep.errors import InputError
from har_sweep.record.folder import RunPaths, find_record, read_record
from har_sweep.record.record import Record, flatten

if TYPE_CHECKING:
    import pandas as pd

    from har_sweep.launch.terminal import Screen

__all__ = ["InputError", "Sweep", "runs", "sweep"]
_ONE_AT_A_TIME = threading.Lock()  # what Hydra is doing, it keeps in globals


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to; shows itself as the closing table.

    ``status`` is the command's exit status: 0 all runs are done (or submitted, or forecast), 1 some are not, 2 none so
    much as began. ``folders`` are those of its runs, in the order in which they were asked for.
    """

    name: str
    status: int
    folders: tuple[Path, ...]
    _labels: tuple[str, ...]
    _cell: int | None = None  # the one in which it ran, whose output ends with the table

    @property
    def runs(self) -> pd.DataFrame:
        """The records of its runs as they are now, as ``har_sweep.runs`` has them."""
        return _frame(self.folders)

    def _table(self) -> Screen:
        from har_sweep.console import Console
        from har_sweep.launch.terminal import PLAIN_WIDTH, Screen

        screen = Screen(Console(file=StringIO(), record=True, force_jupyter=False, width=PLAIN_WIDTH))
        records = [find_record(RunPaths(folder)) for folder in self.folders]
        screen.table(
            f"Sweep {self.name}",
            [
                (record, label, folder.name, record.status if record else "not started")
                for record, label, folder in zip(records, self._labels, self.folders, strict=True)
            ],
        )
        return screen

    def __repr__(self) -> str:
        return self._table().console.export_text()

    def _repr_html_(self) -> str:
        from har_sweep.launch.notebook import as_html

        return as_html(self._table().console)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self._cell is None or self._cell != _cell():
            display({"text/html": self._repr_html_(), "text/plain": repr(self)}, raw=True)


def sweep(overrides: Sequence[str] | Mapping[str, Any] = (), /, **choices: Any) -> Sweep:
    """``python -m har_sweep -m``, with the same words on the screen; in a notebook they stay in one output.

    Parameters
    ----------
    overrides
        as on the command line, ``["model=resnet18,vit_tiny", "data.root=photos"]``; or Python values by key,
        ``{"model": ["resnet18", "vit_tiny"], "data.root": Path("photos")}``.
    choices
        more of the latter: ``seed=range(3)``, ``trainer={"epochs": 3}``.

    A list of values is swept over, unless the key itself takes a list: then a list of lists is. A string is taken as it
    stands, commas and all; only ``${...}`` refers to another key.

    Raises
    ------
    InputError
        if any run could not run: then none was started. A run that fails later is told by ``status`` and its record.
    KeyboardInterrupt
        on Ctrl-C or "interrupt the kernel", once the runs at hand have saved their checkpoints.
    """
    from har_sweep.app import run_hydra
    from har_sweep.console import Console
    from har_sweep.launch.notebook import NotebookScreen
    from har_sweep.launch.terminal import Screen

    try:
        lines = [*_lines(overrides), *_lines(choices)]
        screen = NotebookScreen() if Console().is_jupyter else Screen()
        with _ONE_AT_A_TIME, _hydra_as_it_was(), _telling_of_an_interrupt(screen):
            application = run_hydra(["-m", *lines], screen)
    except InputError as e:
        raise e.with_traceback(None) from None  # where in our code it was found helps nobody
    specs = list({spec.run_id: spec for spec in application.specs}.values())
    folders, labels = tuple(spec.paths.folder for spec in specs), tuple(spec.label for spec in specs)
    return Sweep(specs[0].sweep if specs else "", application.status, folders, labels, _cell())


def runs(folder: str | os.PathLike[str] = "runs") -> pd.DataFrame:
    """The records under a folder, a row each: ``cost/training/seconds``, ``metrics/val/accuracy``, ``config/seed`` ...

    What cannot be read is named in a warning and left out.

    Raises
    ------
    InputError
        if there are no runs.
    """
    found = sorted(file.parent for file in Path(folder).glob("*/record.json"))
    if not found:
        raise InputError(f"There are no runs in {folder}.", "Name the folder that a sweep wrote to (paths.runs).")
    return _frame(found)


def _cell() -> int | None:
    """The number of the cell that IPython is at; None in plain Python."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell and shell.execution_count


def _frame(folders: Iterable[Path]) -> pd.DataFrame:
    import pandas as pd

    records: list[Record] = []
    for folder in folders:
        try:
            records.append(read_record(RunPaths(folder).record))
        except FileNotFoundError:  # not begun
            continue
        except (InputError, OSError) as e:
            warnings.warn(f"Left out: {e}", stacklevel=3)
    return pd.DataFrame([flatten(record) for record in records])


@contextmanager
def _telling_of_an_interrupt(screen: Screen) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        screen.warn("Interrupted. Run the cell again, or make the same call, to go on from here.")
        raise


@contextmanager
def _hydra_as_it_was() -> Iterator[None]:
    """Inside, Hydra is free; after it, whatever else this process does with Hydra goes on as before."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    before, config = get_gh_backup(), HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        restore_gh_from_backup(before)
        HydraConfig.instance().cfg = config


def _lines(given: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Overrides as the command line has them."""
    if isinstance(given, Mapping):
        return [line for key, value in given.items() for line in _line(key, value)]
    lines = [given] if isinstance(given, str) else list(given)
    for line in lines:
        if not isinstance(line, str):
            raise InputError(
                f"{line!r} is not an override.",
                "Write a list of strings, ['seed=0,1'], or a dictionary, {'seed': [0, 1]}.",
            )
        if line.startswith("-"):
            raise InputError(
                f"'{line}' is a flag of the command; sweep() takes overrides.",
                "Leave it out: sweep() has its -m already.",
            )
    return lines


def _line(key: str, value: Any) -> Iterator[str]:
    """The overrides that one key and its Python value come to: one, or one for each entry of a section."""
    from har_sweep.config.tree import groups

    if isinstance(value, Mapping) and not _takes(key, dict):
        for name, part in value.items():
            yield from _line(f"{key}.{name}", part)
        return
    value = _plain(value)
    if isinstance(value, str) and "," in value and key in groups():
        raise InputError(f"{key}={value!r} is one name, with a comma in it.", f"Write {key}={value.split(',')}.")
    lists = isinstance(value, list) and any(isinstance(part, list) for part in value)
    swept = isinstance(value, list) and (lists or not _takes(key, list))
    if swept and not value:
        raise InputError(f"{key}=[] gives no value to sweep over.", "Give it one at least.")
    yield f"{key}={','.join(_written(key, part) for part in (value if swept else [value]))}"


def _takes(key: str, container: type) -> bool:
    """Whether a key's value is a list (or a dictionary) itself."""
    from har_sweep.config.arguments import types

    kind = types().get(key.lstrip("+"))
    return kind is Any or any(get_origin(part) is container for part in (kind, *get_args(kind)))


def _plain(value: Any) -> Any:
    """Numbers and arrays of other libraries, ranges and tuples as Python's own; paths as strings."""
    if hasattr(value, "tolist"):  # numpy, pandas, torch
        return value.tolist()
    if isinstance(value, (range, list, tuple)):
        return [_plain(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _written(key: str, value: Any) -> str:
    """A value in Hydra's grammar."""
    from har_sweep.config.choices import quoted

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(_written(key, _plain(part)) for part in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_written(key, _plain(part))}' for name, part in value.items())}}}"
    raise InputError(
        f"{key}={value!r}: a {type(value).__name__} is no value of a config.", "Give a string or a number."
    )
