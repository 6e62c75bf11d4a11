"""A sweep from its overrides to its exit status."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from har_sweep.config.compose import Composed
from har_sweep.config.schema import TrackingConfig
from har_sweep.config.wandb_variables import followed
from har_sweep.files import redact_text
from har_sweep.launch.journal import note_sweep
from har_sweep.launch.plan import Planned, check_writable, in_brackets, join_sweep, plan
from har_sweep.launch.private import check_writable_runs, owner, refusing_others_folders
from har_sweep.launch.slurm.options import check_resources, resource_shapes, sbatch_flags, sbatch_options
from har_sweep.launch.slurm.submit import submit_arrays
from har_sweep.launch.state import OVER, run_states
from har_sweep.launch.terminal import Screen, failure
from har_sweep.launch.twins import propose_twins
from har_sweep.record.claim import living_owner, take_claim
from har_sweep.record.folder import find_record, is_done
from har_sweep.spec.run_spec import RunSpec
from har_sweep.units import device_time, money

LISTED_RUNS = 20
WORDS = {
    "new": "to do",
    "done": "done already",
    "running": "running already",
    "starting": "starting already",
    "queued": "queued already",
    "again": "to do again",
}


def sweep(runs: list[Composed], overrides: list[str], screen: Screen) -> tuple[int, list[RunSpec]]:
    """Plan, run or submit what is missing, show what came out; ``overrides`` are the command's.

    Returns the exit status (0 all done, 1 some are not, 2 none so much as began) and what each run came to be.

    Raises
    ------
    InputError
        before anything was started.
    """
    launch, folder = runs[0].config.launch, Path(runs[0].config.paths.runs)
    warnings = check_writable(folder)
    check_resources([sbatch_options(run.slurm, run.config.hardware) for run in runs if run.slurm])
    planned = ordered(plan(runs, screen, warnings=warnings), launch.order, screen)
    specs = [spec for _, spec in sorted(((place, p.spec) for p in planned for place in p.places), key=itemgetter(0))]
    announce(planned, screen)
    if launch.dry_run:
        forecast(planned, screen)
        return 0, specs
    note = begin(planned, overrides, screen)
    try:
        run_here([p for p in planned if not p.on_cluster], note, screen)
    except BaseException:
        summarise(planned, {}, screen)
        raise
    cluster = any(p.on_cluster for p in planned)
    if cluster and not launch.wait:
        hints(planned, screen)
        return 0, specs
    causes = follow(planned, screen) if cluster else {}
    tell_trial(planned, screen)
    all_done = summarise(planned, causes, screen)
    return 0 if all_done else 2 if len(causes) == len(planned) else 1, specs


@refusing_others_folders()
def begin(planned: list[Planned], overrides: list[str], screen: Screen) -> Path:
    """Note the runs under the sweep's name, and submit those for a cluster; returns the folder of the note.

    Raises
    ------
    InputError
        if some of the runs were begun by another user, who lets no one else go on with them.
    """
    check_writable_runs(p.spec.paths for p in planned if p.to_do)
    note = note_sweep([p.spec for p in planned], overrides)
    for done in (p for p in planned if p.state == "done"):
        try:
            join_sweep(done.spec)
        except PermissionError:
            folder = done.spec.paths.folder
            screen.warn(f"{folder} is {owner(folder)}'s to write: its record will not name this sweep.")
    if any(p.on_cluster for p in planned):
        submit(planned, Path(planned[0].spec.config.paths.runs), screen)
    return note


def run_here(planned: list[Planned], note: Path, screen: Screen) -> None:
    """Run what is to do on this machine, and wait for what others are at."""
    todo = [p.spec for p in planned if p.to_do]
    others = [
        p.spec for p in planned if p.state in ("running", "starting", "ending", "queued") and p.spec.config.launch.wait
    ]
    if not todo and not others:
        return
    from har_sweep.launch.local import run_all

    ours = take_claim(note)  # so that the sweep can be found, to be cancelled
    try:
        run_all(todo, others, screen)
    finally:
        if ours:
            ours.release()


def tell_trial(planned: list[Planned], screen: Screen) -> None:
    """Tell a W&B agent's sweep what its trial came to, where nobody has computed it just now: it is done already."""
    for spec in (p.spec for p in planned if not p.to_do and p.spec.config.tracking.trial and is_done(p.spec.paths)):
        from har_sweep.run.tracking import track_again

        track_again(spec, screen.warn)
        screen.say(f"Weights & Biases has the trial's numbers, of {spec.run_id}, which was done already.")


def submit(planned: list[Planned], folder: Path, screen: Screen) -> None:
    """Submit what nobody has, one sweep at a time: what another has just submitted is seen."""
    with _alone(folder / ".submitting", screen):
        cluster = [p.spec for p in planned if p.on_cluster and p.to_do]
        states = run_states([spec.paths for spec in cluster], any(spec.config.rerun for spec in cluster))
        todo = [spec for spec, state in zip(cluster, states, strict=True) if state.state in OVER]
        began = time.monotonic()
        jobs = submit_arrays(todo) if todo else {}
    if jobs:
        arrays = sorted({job.split("_")[0] for job in jobs.values()})
        took = time.monotonic() - began
        screen.say(
            f"Submitted {len(jobs)} run{'s' if len(jobs) > 1 else ''} as job {', '.join(arrays)} in {took:.1f} s."
        )


def follow(planned: list[Planned], screen: Screen) -> dict[str, str]:
    """Show the cluster's runs until they are over; Ctrl-C ends the showing alone."""
    from har_sweep.launch.slurm.watch import watch

    try:
        return watch([p.spec for p in planned if p.on_cluster and p.state != "done"], screen)
    except KeyboardInterrupt:
        screen.warn("Stopped watching; the jobs go on.")
        hints(planned, screen)
        raise


def hints(planned: list[Planned], screen: Screen) -> None:
    """What to type next, about jobs that go on."""
    name, folder = shlex.quote(planned[0].spec.sweep), planned[0].spec.config.paths.runs
    where = "" if folder == "runs" else f" {shlex.quote(f'paths.runs={folder}')}"
    screen.say(
        f"  python -m har_sweep.status {name}{where} --watch    shows them; the same sweep command follows them again"
    )
    screen.say(f"  python -m har_sweep.cancel {name}{where}            ends them")


def forecast(planned: list[Planned], screen: Screen) -> None:
    """What would be submitted, and what it would cost."""
    from har_sweep.launch.estimate import estimate

    for asked, specs in resource_shapes([p.spec for p in planned if p.on_cluster and p.to_do]):
        slurm = specs[0].slurm
        assert slurm is not None
        most = min(len(specs), slurm.array_parallelism)
        array = f"--array=0-{len(specs) - 1}%{most}"
        screen.say(redact_text(f"sbatch {' '.join(sbatch_flags(asked))} {array}"), "bold")
        for line in slurm.setup:
            screen.say(f"  setup: {redact_text(line)}")
    with screen.live():
        estimates = estimate(planned, screen)
    told = Counter((p.spec.name, e) for p, e in zip(planned, estimates, strict=True))
    for (name, e), count in told.items():
        each = "unknown" if e.device_hours is None else device_time(e.device_hours)
        price = "" if e.price is None else f", {money(e.price)}"
        screen.say(f"  {count} x {name}: {each}{price}{' each' if count > 1 else ''}, from {e.basis}")
    hours, prices = [e.device_hours for e in estimates], [e.price for e in estimates if e.price is not None]
    priced = f" and {money(sum(prices))}" if prices else ""
    unknown = hours.count(None)
    rest = f", beside {unknown} run{'s' if unknown > 1 else ''} of unknown cost" if unknown else ""
    known = sum(hour for hour in hours if hour is not None)
    screen.say(f"In all {device_time(known)}{priced}{rest}. Nothing was started (launch.dry_run=true).", "bold")


def announce(planned: list[Planned], screen: Screen) -> None:
    """What will run, on what; what is done already; and warnings."""
    first = planned[0].spec
    counts = Counter(p.state for p in planned)
    told = ", ".join(f"{n} {WORDS.get(state, f'{state} before, to go on')}" for state, n in counts.items())
    screen.say(f"Sweep {first.sweep}: {told}.")
    todo = [p for p in planned if p.state != "done"]
    for p in todo[:LISTED_RUNS]:
        c = p.spec.config
        epochs = f"{c.trainer.epochs} epoch{'s' if c.trainer.epochs > 1 else ''}"
        taught = f", taught by {p.spec.teacher.name}" if p.spec.teacher else ""
        devices = f"{c.hardware.device_count} x " if c.hardware.device_count > 1 else ""
        screen.say(
            f"  {p.spec.run_id}  {p.spec.model.timm_name} from {p.spec.model.weights[:19]}{in_brackets(c)}, "
            f"seed {c.seed}: {epochs}, batch {c.trainer.batch_size}, {c.optimizer.name} {c.optimizer.lr:g}{taught}, "
            f"{devices}{p.spec.device} {p.spec.precision} [{p.state}]"
        )
    if len(todo) > LISTED_RUNS:
        screen.say(f"  ... and {len(todo) - LISTED_RUNS} more")
    chosen = [p.spec for p in todo if p.spec.choice.why]
    for what in dict.fromkeys(f"{s.model.timm_name} on {s.device} in {s.choice.way}, {s.choice.why}" for s in chosen):
        screen.say(f"  {what}.")
    if todo and (told := where_tracked(first.config.tracking)):
        screen.say(f"  {told}")
    for asked, specs in resource_shapes([p.spec for p in todo if p.on_cluster]):
        gpus = f"{asked['gpus_per_node']} GPU, " if "gpus_per_node" in asked else ""
        place = asked.get("partition", "the default partition")
        asks = f"{gpus}{asked['cpus_per_task']} CPUs, {asked['mem']} and {asked['time']} minutes, in {place}"
        screen.say(f"  Each of {len(specs)} asks SLURM for {asks}.")
    warn(planned, screen)
    propose_twins(planned, screen)
    warn_of_lost(planned, screen)


def warn_of_lost(planned: list[Planned], screen: Screen) -> None:
    """Name the files that done runs should have and have not: nothing but computing them again would make those."""
    done = [p.spec for p in planned if p.state == "done"]
    saved = [spec for spec in done if spec.config.trainer.save_model]
    for file, lacking in (
        ("predictions.parquet", [spec for spec in done if not spec.paths.predictions.exists()]),
        ("model.safetensors", [spec for spec in saved if not spec.paths.model.exists()]),
    ):
        if lacking:
            named = ", ".join(spec.run_id for spec in lacking[:LISTED_RUNS])
            more = f" and {len(lacking) - LISTED_RUNS} more" if len(lacking) > LISTED_RUNS else ""
            screen.warn(f"Done, but without {file}: {named}{more}. Add rerun=true to compute what is asked for again.")


def where_tracked(tracking: TrackingConfig) -> str:
    """Where Weights & Biases is told of the runs, if that is not as usual, and what each variable says of it."""
    said = followed(tracking)
    if tracking.backend != "wandb" or not (said or tracking.mode == "online"):
        return ""
    project = "/".join(filter(None, (tracking.entity, tracking.project)))
    where = f"{tracking.mode}, {project}" if tracking.mode != "disabled" else "disabled"
    of_where = [said[key] for key in ("mode", "project", "entity") if key in said]
    because = f" ({', '.join(of_where)} {'say' if len(of_where) > 1 else 'says'} so)" if of_where else ""
    others = [
        f"; {_told_by(key, getattr(tracking, key))} ({name})" for key, name in said.items() if name not in of_where
    ]
    return f"Weights & Biases: {where}{because}{''.join(others)}."


def _told_by(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{key.replace('_', ' ')} {'on' if value else 'off'}"
    return f"{key.replace('_', ' ')} {', '.join(value) if isinstance(value, list) else value}"


def warn(planned: list[Planned], screen: Screen, known: Iterable[str] = ()) -> None:
    """What everybody should know before believing the numbers, but for what is ``known``."""
    for warning in dict.fromkeys(w for p in planned for w in p.spec.warnings if w not in known):
        concerned = [p.spec.label for p in planned if warning in p.spec.warnings]
        screen.warn(warning if len(concerned) == len(planned) else f"{', '.join(concerned)}: {warning}")


def summarise(planned: list[Planned], causes: dict[str, str], screen: Screen) -> bool:
    """The closing table and every failure's cause; whether all runs are done."""
    rows, failures = [], []
    for p in planned:
        paths = p.spec.paths
        record = find_record(paths)
        status: str = record.status if record else "not started"
        if status != "done" and living_owner(paths.folder):  # of a done run, the owner is only leaving
            status = "running elsewhere"
        rows.append((record, p.spec.label, p.spec.run_id, "done before" if p.state == "done" else status))
        if record and status == "failed":
            failures += failure(record, paths.log)
        elif p.spec.run_id in causes:
            failures += [f"{p.spec.label} ({p.spec.run_id}): it never began", f"  {causes[p.spec.run_id]}"]
        elif record is None and paths.log.exists():
            failures += [f"{p.spec.label} ({p.spec.run_id}): it never started", f"  log: {paths.log}"]
        elif record and status == "interrupted" and p.on_cluster:
            last = record.attempts[-1] if record.attempts else None
            failures += [f"{record.name} ({p.spec.run_id}): interrupted. {last.error or '' if last else ''}"]
    spec = planned[0].spec
    names = dict.fromkeys(f"{r.dataset.name}{' (synthetic)' if r.dataset.synthetic else ''}" for r, *_ in rows if r)
    screen.table(f"Sweep {spec.sweep} on {', '.join(names) or spec.config.data.name}", rows)
    screen.say(f"Records: {Path(spec.config.paths.runs) / '<run>' / 'record.json'}")
    if any(record and record.status == "done" for record, *_ in rows):
        screen.say(f"Report:  python -m multirun_analysis {shlex.quote(spec.config.paths.runs)}")
    for line in failures:
        screen.say(line, "red" if not line.startswith(" ") else "")
    return all(status.startswith("done") for *_, status in rows)


@contextmanager
def _alone(folder: Path, screen: Screen) -> Iterator[None]:
    """Inside, no other sweep submits into the same runs."""
    waited = False
    while (claim := take_claim(folder)) is None:
        if not waited:
            screen.say("Another sweep is submitting its runs here; waiting for it.")
        waited = True
        time.sleep(0.5)
    with claim:
        yield


def ordered(planned: list[Planned], order: str, screen: Screen) -> list[Planned]:
    """The runs in the order they shall start; ``interleaved`` takes each model's next run in turn."""
    if order == "cheapest_first":
        from har_sweep.launch.estimate import cheapness

        return [p for _, p in sorted(zip(cheapness(planned, screen), planned, strict=True), key=lambda pair: pair[0])]
    if order == "interleaved":
        turn = Counter[str]()
        turns = []
        for p in planned:
            turns.append(turn[p.spec.config.model.name])
            turn[p.spec.config.model.name] += 1
        return [p for _, p in sorted(zip(turns, planned, strict=True), key=lambda pair: pair[0])]
    return planned
