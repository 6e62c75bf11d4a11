"""``python -m har_sweep.status [SWEEP]``: how a sweep's runs stand, from their records and the queue."""

from __future__ import annotations

import argparse
import sys
import time

LOG_LINES = 12
POLL_SECONDS = 3.0


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
    from har_sweep.launch.terminal import Screen, exit_status, failure
    from har_sweep.record.folder import RunPaths

    screen = Screen()
    try:
        args, sweep, folder = parse_sweep(parser, arguments)
        note = find_sweep(folder, sweep)
    except InputError as e:
        return exit_status(e, screen)
    paths = [RunPaths(folder / run.run_id) for run in note.runs]

    def states() -> list[RunState]:
        try:
            return run_states(paths)
        except Unreachable as e:
            screen.warn(f"SLURM does not answer ({e}); this is what the records say.")
            return run_states(paths, ask_slurm=False)

    screen.say(f"Sweep {note.name}, asked for at {note.asked_at}: {' '.join(note.overrides)}")
    seen = states()
    if args.watch:
        try:
            with screen.board() as show:
                while not all(state.state in OVER for state in seen):
                    show([state.standing(run.label) for run, state in zip(note.runs, seen, strict=True)], "")
                    time.sleep(POLL_SECONDS)
                    seen = states()
        except KeyboardInterrupt:
            pass
    rows = list(zip(note.runs, seen, strict=True))
    if args.failed:
        rows = [(run, state) for run, state in rows if state.state in ("failed", "lost", "interrupted")]
    if rows:
        screen.console.print(standings([state.standing(run.label) for run, state in rows]))
    else:
        screen.say("Nothing has failed.")
    for run, state in rows if args.failed else []:
        never = [f"{run.label} ({run.run_id}): it never began"]
        for line in failure(state.record, state.paths.log) if state.record else never:
            screen.say(line, "" if line.startswith(" ") else "red")
        if state.log:
            for line in state.log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
                screen.say(f"    {line}", "dim")
    others = [other.name for other in read_sweeps(folder) if other.name != note.name]
    if others and not sweep:
        screen.say(f"Other sweeps here: {', '.join(others[:10])}{' ...' if len(others) > 10 else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
