"""Runs small enough for tests: real images, a real (tiny) timm model, the real commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from har_sweep.config.compose import compose_runs
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Record
from har_sweep.spec.hardware import device_of
from har_sweep.spec.run_spec import RunSpec

# Everything timm would be asked for is given, which saves a process that imports it.
SMALL_MODEL = [
    "model=timm", "model.timm_name=test_resnet", "model.weights=scratch", "model.input_size=64",
    "model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]",
]  # fmt: skip
# With images of their own, beside the runs. In a precision that is named: no test waits until the fastest is measured.
ALONE = [
    *SMALL_MODEL, "data.images_per_class=6", "trainer.epochs=3", "trainer.batch_size=16", "tracking=none",
    "hardware=cpu", "hardware.precision=fp32",
]  # fmt: skip
IMAGES = os.environ["TEST_IMAGES"]
SMALL = [*ALONE, f"paths.data={IMAGES}/data", f"paths.cache={IMAGES}/cache"]


def small_spec(folder: Path, *overrides: str) -> RunSpec:
    """A planned run of the sample, under ``folder``."""
    return plan(compose_runs([[*SMALL, f"paths.runs={folder}/runs", *overrides]]), Screen())[0].spec


def lower_precision() -> str:
    """In which this machine's GPU multiplies faster than in fp32: bf16, or fp16 before Ampere."""
    return "bf16" if device_of("cuda").bf16 else "fp16"


def command(*overrides: str) -> list[str]:
    """The main command."""
    return [sys.executable, "-m", "har_sweep", *overrides]


def har_sweep(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the main command to its end, as a user in ``cwd`` would."""
    return subprocess.run(
        command(*overrides), cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )


def one_after_another(*lines: list[str], cwd: Path, **environment: str) -> list[tuple[int, str]]:
    """The exit status of each command line and what it says, all given in one process."""
    code = "import json, sys; from har_sweep.__main__ import main\n"
    code += "for line in json.loads(sys.argv[1]): print('<<<', main(line), '>>>')"
    asked = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)], cwd=cwd, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    found = re.findall(r"(?s)(.*?)<<< (\d+) >>>", asked.stdout)
    assert len(found) == len(lines), asked.stdout
    return [(int(status), said) for said, status in found]


_ATTENDANT = """
import json, os, sys
from har_sweep.__main__ import main
answers = os.fdopen(os.dup(1), "w")
for asked in sys.stdin:
    folder, overrides, *files = json.loads(asked)
    os.chdir(folder)
    for descriptor, name in enumerate(files, 1):
        with open(name, "w") as file:
            os.dup2(file.fileno(), descriptor)
    status = main(overrides)
    sys.stdout.flush(), sys.stderr.flush()
    os.chdir("/")
    print(status, file=answers, flush=True)
"""


_attendants: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}  # by what their environment has beside ours


def one_more(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As ``har_sweep``, in a process that is kept for the next, and that has imported torch for its runs already."""
    which, said = tuple(environment.items()), [cwd.parent / f".{cwd.name}-{name}" for name in ("stdout", "stderr")]
    if which not in _attendants:
        _attendants[which] = subprocess.Popen(
            [sys.executable, "-c", _ATTENDANT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    attendant = _attendants[which]
    assert attendant.stdin
    assert attendant.stdout
    print(json.dumps([str(cwd), overrides, *map(str, said)]), file=attendant.stdin, flush=True)
    status = ""
    try:
        status = attendant.stdout.readline()
    finally:
        if not status:  # it died, or the test's time is over: what it says later would be taken for another answer
            attendant.kill()
            del _attendants[which]
    return subprocess.CompletedProcess(overrides, int(status or attendant.wait()), *(file.read_text() for file in said))


def runs(folder: Path) -> dict[str, Record]:
    """The records under ``folder/runs`` by run id."""
    found = sorted((folder / "runs").glob("*/record.json"))
    return {path.parent.name: read_record(path) for path in found}


def what_was_learned(spec: RunSpec) -> dict[str, object]:
    """All of a run that must be the same to the bit."""
    record = read_record(spec.paths.record)
    return {
        "weights": spec.paths.model.read_bytes(),
        "predictions": pd.read_parquet(spec.paths.predictions).to_json(double_precision=15),
        "metrics": record.metrics,
        "epochs": [replace(epoch, seconds=0.0) for epoch in record.epochs],
        "selected": record.selected_epoch,
    }


def learned(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Of each run under ``folder/runs``, all that must be the same to the bit."""
    return {
        run_id: (
            RunPaths(folder / "runs" / run_id).model.read_bytes(),
            record.metrics,
            [replace(epoch, seconds=0.0) for epoch in record.epochs],
        )
        for run_id, record in runs(folder).items()
    }
