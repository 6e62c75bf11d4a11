"""``python -m har_sweep.cancel SWEEP``: end a sweep's jobs; what they have computed stays, and can be gone on with."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Cancel; 0, 1 if something could not be cancelled, or 2 if there is no such sweep."""
    parser = argparse.ArgumentParser(prog="python -m har_sweep.cancel", description="End a sweep's jobs.")
    parser.add_argument("sweep", help="the sweep's name, as the sweep and har_sweep.status show it")
    parser.add_argument("--runs", default="runs", type=Path, help="folder of the runs (default: runs)")
    args = parser.parse_args(arguments)

    from har_sweep.errors import InputError
    from har_sweep.launch.journal import find_sweep, sweep_folder
    from har_sweep.launch.slurm.queue import Unreachable, cancel_jobs
    from har_sweep.launch.state import run_states
    from har_sweep.launch.terminal import Screen
    from har_sweep.record.claim import living_owner, this_machine
    from har_sweep.record.folder import RunPaths

    screen = Screen()
    try:
        note = find_sweep(args.runs, args.sweep)
        states = run_states([RunPaths(args.runs / run.run_id) for run in note.runs])
        jobs = [state.job for state in states if state.job and state.queued]
        if jobs:
            cancel_jobs(jobs)
    except InputError as e:
        screen.error(e.message, e.hint)
        return 2
    except Unreachable as e:
        screen.error(f"SLURM did not cancel the jobs: {e}.", "Give the same command again.")
        return 1
    told = [f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of SLURM"] if jobs else []
    # A sweep on this machine ends as with Ctrl-C; on another it can only be ended there.
    owner = living_owner(sweep_folder(args.runs, note.name))
    if owner and owner.machine == this_machine():
        os.kill(owner.pid, signal.SIGTERM)
        told.append(f"the sweep's process here ({owner.pid})")
    elif owner:
        screen.warn(f"The sweep also runs on {owner.host} as process {owner.pid}: cancel it there.")
    if told:
        screen.say(
            f"Sweep {note.name}: cancelled {' and '.join(told)}. The same sweep command goes on from the checkpoints."
        )
    else:
        screen.say(f"Sweep {note.name} has nothing queued or running here.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
