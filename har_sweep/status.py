"""``python -m har_sweep.status [SWEEP]``: how a sweep's runs stand, from their records and the queue."""

from __future__ import annotations

import argparse
import sys
import time

LOG_LINES = 12
LOOK_SECONDS = 3.0


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0, or 2 if there is no such sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.status", description="How a sweep's runs stand; without its name, the latest's."
    )
    parser.add_argument("--failed", action="store_true", help="only what failed, with the end of each log")
    parser.add_argument("--watch", action="store_true", help="go on showing it until all runs are over, or Ctrl-C")

    from har_sweep.config.which import parse_sweep
    from har_sweep.errors import InputError
    from har_sweep.launch.board import standings
    from har_sweep.launch.journal import find_sweep, read_sweeps
    from har_sweep.launch.slurm.queue import Unreachable
    from har_sweep.launch.state import OVER, RunState, run_states
    from har_sweep.launch.terminal import Screen, failure
    from har_sweep.record.folder import RunPaths

    screen = Screen()
    try:
        args, sweep, folder = parse_sweep(parser, arguments)
        note = find_sweep(folder, sweep)
    except InputError as e:
        screen.error(e.message, e.hint)
        return 2
    paths = [RunPaths(folder / run.run_id) for run in note.runs]

    def looks() -> list[RunState]:
        try:
            return run_states(paths)
        except Unreachable as e:
            screen.warn(f"SLURM does not answer ({e}); this is what the records say.")
            return run_states(paths, ask_slurm=False)

    screen.say(f"Sweep {note.name}, asked for at {note.asked_at}: {' '.join(note.overrides)}")
    seen = looks()
    if args.watch:
        try:
            with screen.board() as show:
                while not all(view.state in OVER for view in seen):
                    show([view.standing(run.label) for run, view in zip(note.runs, seen, strict=True)], "")
                    time.sleep(LOOK_SECONDS)
                    seen = looks()
        except KeyboardInterrupt:
            pass
    rows = list(zip(note.runs, seen, strict=True))
    if args.failed:
        rows = [(run, view) for run, view in rows if view.state in ("failed", "lost", "interrupted")]
    if rows:
        screen.console.print(standings([view.standing(run.label) for run, view in rows]))
    else:
        screen.say("Nothing has failed.")
    for run, view in rows if args.failed else []:
        lines = failure(view.record, view.paths.log) if view.record else [f"{run.label} ({run.run_id}): it never began"]
        for line in lines:
            screen.say(line, "" if line.startswith(" ") else "red")
        if view.log:
            for line in view.log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
                screen.say(f"    {line}", "dim")
    others = [other.name for other in read_sweeps(folder) if other.name != note.name]
    if others and not sweep:
        screen.say(f"Other sweeps here: {', '.join(others[:10])}{' ...' if len(others) > 10 else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
