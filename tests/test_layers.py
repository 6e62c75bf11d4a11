"""The house stands: an import points down, files go in no circle, and the analysis knows records, not the sweep."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
GROUND = ("console", "errors", "events", "files", "processes", "stop", "units")
# From the ground up, a floor each; rooms of one floor do not know each other. What is not named (commands, and whole
# rooms that stand on the core) is on top: it may use everything, and nobody uses it.
FLOORS = {
    "har_sweep": [
        "ground", "record", "config", "spec", "device", "data model cost", "train", "run", "launch", "compact",
        "use", "app", "api",
    ],
    "multirun_analysis": [
        "quantities", "findings", "sources", "analysis", "tables figures", "report", "outputs", "api",
    ],
    "hydra_plugins": [],
}  # fmt: skip
# What a package sees of another.
OPEN = {
    ("multirun_analysis", "har_sweep"): ["ground", "record"],
    ("hydra_plugins", "har_sweep"): [room for floor in FLOORS["har_sweep"] for room in floor.split()],
}


def modules() -> dict[str, Path]:
    """Every file of the packages by its dotted name."""
    files = sorted(file for package in FLOORS for file in (ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports anywhere: in a function and for type checkers too."""
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield from [m for m in (f"{source}.{alias.name}", source) if m in known][:1]


def place(name: str) -> tuple[str, str, int]:
    """Package, room and floor of a module."""
    package, _, rest = name.partition(".")
    room = rest.split(".")[0]
    if package == "har_sweep" and room in GROUND:
        room = "ground"
    floors = FLOORS[package]
    return package, room, next((n for n, floor in enumerate(floors) if room in floor.split()), len(floors))


def fits(importer: str, imported: str) -> bool:
    (package, room, floor), (other, other_room, other_floor) = place(importer), place(imported)
    if package != other:
        return other_room in OPEN.get((package, other), [])
    return room == other_room or other_floor < floor


def test_an_import_stays_in_its_room_or_points_down() -> None:
    known = modules()
    wrong = {
        f"{file.relative_to(ROOT)} imports {known[imported].relative_to(ROOT)}, which is not below it"
        for name, file in known.items()
        for imported in imports(name, file, known)
        if not fits(name, imported)
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_no_files_import_each_other_in_a_circle() -> None:
    known = modules()
    try:
        TopologicalSorter({name: {*imports(name, file, known)} - {name} for name, file in known.items()}).prepare()
    except CycleError as e:
        raise AssertionError(" -> ".join(str(known[name].relative_to(ROOT)) for name in e.args[1])) from None


def test_only_the_rooms_that_start_runs_know_how_a_run_goes() -> None:
    known = modules()
    knowing = {place(n)[1] for n, file in known.items() for i in imports(n, file, known) if place(i)[1] == "run"}
    assert knowing == {"run", "launch", "compact"}
