"""A sweep from its overrides to its exit status."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from har_sweep import record as records
from har_sweep.config import compose, expand
from har_sweep.launch.local import run_all
from har_sweep.launch.plan import Planned, check_writable, join_sweep, plan
from har_sweep.launch.screen import Screen, failure

LISTED_RUNS = 20


def sweep(overrides: list[str], screen: Screen) -> int:
    """Plan, run what is missing, show what came out; 0 if every run is done, 1 if one is not.

    Raises
    ------
    InputError
        before anything was started.
    """
    choices = expand(overrides)
    runs = "1 run" if len(choices) == 1 else f"{len(choices)} runs"
    screen.progress(f"har_sweep: {runs} asked for; reading configs, weights and data", 0, 0)
    configs = [(choice, compose(choice)) for choice in choices]
    check_writable(Path(configs[0][1].paths.runs))
    planned = plan(configs, screen)
    announce(planned, screen)
    for done in (p for p in planned if p.state == "done"):
        join_sweep(done.spec)
    todo = [p.spec for p in planned if p.to_do]
    try:
        if todo:
            run_all(todo, screen)
    finally:
        all_done = summarise(planned, screen)
    return 0 if all_done else 1


def announce(planned: list[Planned], screen: Screen) -> None:
    """What will run, on what; what is done already; and what everybody should know before believing the numbers."""
    first = planned[0].spec
    counts = Counter(p.state for p in planned)
    words = {
        "new": "to do",
        "done": "done already",
        "elsewhere": "being computed by another process",
        "again": "to do again",
    }
    told = ", ".join(f"{n} {words.get(state, f'{state} before, to go on')}" for state, n in counts.items())
    screen.say(f"Sweep {first.sweep}: {told}.")
    todo = [p for p in planned if p.state != "done"]
    for p in todo[:LISTED_RUNS]:
        c = p.spec.config
        epochs = f"{c.trainer.epochs} epoch{'s' if c.trainer.epochs > 1 else ''}"
        screen.say(
            f"  {p.spec.run_id}  {p.spec.model.timm_name} from {p.spec.model.weights[:19]}, seed {c.seed}: "
            f"{epochs}, batch {c.trainer.batch_size}, {c.optimizer.name} {c.optimizer.lr:g}, "
            f"{p.spec.device} {p.spec.precision} [{p.state}]"
        )
    if len(todo) > LISTED_RUNS:
        screen.say(f"  ... and {len(todo) - LISTED_RUNS} more")
    for warning in dict.fromkeys(w for p in planned for w in p.spec.warnings):
        concerned = [p.spec.label for p in planned if warning in p.spec.warnings]
        screen.warn(warning if len(concerned) == len(planned) else f"{', '.join(concerned)}: {warning}")


def summarise(planned: list[Planned], screen: Screen) -> bool:
    """The closing table and every failure's cause; whether all runs are done."""
    rows, failures = [], []
    for p in planned:
        paths = p.spec.paths
        record = records.read(paths.record) if paths.record.exists() else None
        status = "running elsewhere" if p.state == "elsewhere" else record.status if record else "not started"
        rows.append((record, p.spec.label, p.spec.run_id, "done before" if p.state == "done" else status))
        if record and status == "failed":
            failures += failure(record, paths.log)
        elif record is None and paths.log.exists():
            failures += [f"{p.spec.label} ({p.spec.run_id}): it never started", f"  log: {paths.log}"]
    spec = planned[0].spec
    names = dict.fromkeys(f"{r.dataset.name}{' (synthetic)' if r.dataset.synthetic else ''}" for r, *_ in rows if r)
    screen.table(f"Sweep {spec.sweep} on {', '.join(names) or spec.config.data.name}", rows)
    screen.say(f"Records: {Path(spec.config.paths.runs) / '<run>' / 'record.json'}")
    for line in failures:
        screen.say(line, "red" if not line.startswith(" ") else "")
    return all(status.startswith("done") for *_, status in rows)
