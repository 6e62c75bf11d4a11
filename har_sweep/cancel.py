"""``python -m har_sweep.cancel SWEEP``: end a sweep's jobs; what they have computed stays, and can be gone on with."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress


def main(arguments: list[str] | None = None) -> int:
    """Cancel; 0, 1 if something could not be cancelled, or 2 if there is no such sweep."""
    parser = argparse.ArgumentParser(prog="python -m har_sweep.cancel", description="End a sweep's jobs.")

    from har_sweep.config.which import parse_sweep
    from har_sweep.errors import InputError
    from har_sweep.launch.journal import find_sweep, sweep_folder
    from har_sweep.launch.private import owner as user
    from har_sweep.launch.slurm.queue import Unreachable, cancel_jobs
    from har_sweep.launch.state import run_states
    from har_sweep.launch.terminal import Screen, exit_status
    from har_sweep.record.claim import claim_path, living_owner, this_machine
    from har_sweep.record.folder import RunPaths

    screen = Screen()
    try:
        _, sweep, folder = parse_sweep(parser, arguments)
        if sweep is None:
            raise InputError("Which sweep shall end?", "Name it; python -m har_sweep.status shows the names.")
        note = find_sweep(folder, sweep)
        states = run_states([RunPaths(folder / run.run_id) for run in note.runs])
        jobs = [state.job for state in states if state.job and state.queued]
        if jobs:
            cancel_jobs(jobs)
    except InputError as e:
        return exit_status(e, screen)
    except Unreachable as e:
        screen.error(f"SLURM did not cancel the jobs: {e}.", "Give the same command again.")
        return 1
    told = [f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} of SLURM"] if jobs else []
    # A sweep on this machine ends as with Ctrl-C; on another it can only be ended there.
    place = sweep_folder(folder, note.name)
    owner = living_owner(place)
    claim = claim_path(place, owner.number) if owner else place
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
        if owner and claim.stat().st_uid != os.geteuid():
            screen.warn(f"The sweep's process {owner.pid} on {owner.host} is {user(claim)}'s to end.")
        elif owner and owner.machine == this_machine():
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
