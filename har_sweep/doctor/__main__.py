"""What would keep a sweep from running here, and the remedy: ``python -m har_sweep.doctor [overrides of the sweep]``.

Give it the overrides that the sweep will get (``data=har model=vit_base paths.runs=/scratch/runs``), with its -m or
without. It decodes no image, downloads nothing and waits a few seconds at most for any network. Where a device has
several precisions it measures, once, which trains ResNet-18 fastest. Exit status: 0 a sweep can run, 1 it cannot,
2 the overrides cannot be used.
"""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import Future

from har_sweep.doctor.finding import NOTE, OK, PROBLEM, Check
from har_sweep.doctor.inputs import datasets, weights
from har_sweep.doctor.machine import cuda_in_torch, devices, disk, machine, precision, watch_load
from har_sweep.doctor.packages import REINSTALL, packages, python
from har_sweep.doctor.services import ANSWER_SECONDS, in_background, slurm, wandb
from har_sweep.units import escaped


def main(arguments: list[str]) -> int:
    """Print the table; return the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    checks = [python(), *packages()]
    try:
        from har_sweep.errors import InputError

        checks += examine(arguments)
    except ImportError as e:
        checks.append(Check("everything else", PROBLEM, f"cannot be examined: {e}", REINSTALL))
    except InputError as e:
        print(escaped(f"{e.message}\n{e.hint}".strip()), file=sys.stderr)
        return 2
    show(checks)
    return int(any(check.status == PROBLEM for check in checks))


def examine(overrides: list[str]) -> list[Check]:
    """Everything beyond Python and its packages, for the sweep of ``overrides``.

    Raises
    ------
    InputError
        if the overrides cannot be used.
    """
    from har_sweep.config.compose import compose_runs, copied
    from har_sweep.spec.hub import Hub

    load = watch_load()
    # Seeds change nothing here, and each config takes a tenth of a second.
    choices = {tuple(o for o in choice if not o.startswith("seed=")): None for choice in copied(overrides)}
    runs = compose_runs([list(choice) for choice in choices])
    configs = [run.config for run in runs]
    hub = in_background(Hub(ANSWER_SECONDS).problem)
    away: list[Future[Check | None]] = [in_background(cuda_in_torch), in_background(wandb), in_background(slurm)]
    here = [run.config for run in runs if run.slurm is None]
    checks = [*devices(here), *precision(here), *machine(), *disk(configs), *datasets(configs)]
    hub_problem = hub.result()
    checks += weights(configs, hub_problem)
    checks.append(
        Check("Hugging Face hub", NOTE, hub_problem, "Only fetching weights and datasets needs it.")
        if hub_problem
        else Check("Hugging Face hub", OK, "answers")
    )
    return [*checks, *(check for later in away if (check := later.result())), load()]


def show(checks: list[Check]) -> None:
    """Print a table, or plain lines where no one watches, and what they come to."""
    problems = sum(check.status == PROBLEM for check in checks)
    verdict = f"A sweep cannot run here: {problems} to mend." if problems else "A sweep can run here."
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        for check in checks:
            remedy = f" -> {check.remedy}" if check.remedy else ""
            print(escaped(f"{check.status:8}{check.subject}: {check.finding}{remedy}"))
        print(verdict)
        return
    from rich.table import Table
    from rich.text import Text

    from har_sweep.console import Console

    styles = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
    table = Table("", "what", "found", box=None, pad_edge=False)
    for check in checks:
        found = Text(check.finding)
        if check.remedy:
            found.append(f"\n-> {check.remedy}", "bold" if check.status == PROBLEM else "dim")
        table.add_row(Text(check.status, styles[check.status]), check.subject, found)
    console = Console()
    console.print(table)
    console.print(verdict, style=styles[PROBLEM if problems else OK])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
