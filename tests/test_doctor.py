"""The doctor, really run: what it finds, the remedy it names, its exit status, and that it never waits long."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NOWHERE = "http://127.0.0.1:9"


class Doctor:
    """A doctor in an empty folder, with an empty home, no logins, no SLURM, and servers that refuse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            "PATH": str(folder / "bin"),
            "HOME": str(folder),
            "HF_ENDPOINT": NOWHERE,
            "WANDB_BASE_URL": NOWHERE,
            "PYTHONPATH": str(folder / "site"),
        }
        (folder / "bin").mkdir()

    def __call__(self, *overrides: str, python: tuple[str, ...] = ("-m", "har_sweep.doctor")) -> tuple[int, str]:
        # A precision, so that none has to be measured (tests/test_precision.py).
        command = [sys.executable, *python, "hardware.precision=fp32", *overrides]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def command(self, name: str, script: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def distribution(self, name: str, version: str, *requires: str) -> None:
        """Put a package's metadata before all others."""
        info = self.folder / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def line_of(output: str, start: str) -> str:
    [line] = [line for line in output.splitlines() if line.startswith(start)]
    return line


class _NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotFound) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_the_default_sweep_can_run_without_network_account_or_cluster(doctor: Doctor) -> None:
    status, output = doctor("model=resnet18,vit_tiny")
    assert status == 0, output
    assert output.splitlines()[-1] == "A sweep can run here."
    assert sys.executable in line_of(output, "ok      Python")
    assert "torch 2." in line_of(output, "ok      packages")
    assert re.search(r"^(ok|note) +load: (other processes use|not known)", output, re.MULTILINE)
    assert f"{doctor.folder}/runs" in line_of(output, "ok      paths.runs")
    assert "synthetic" in line_of(output, "ok      data")
    assert "starts from scratch" in line_of(output, "note    weights of vit_tiny")
    assert "cannot be reached" in line_of(output, "note    Hugging Face hub")
    assert "wandb sync" in line_of(output, "note    Weights & Biases")
    assert "no sbatch" in line_of(output, "note    SLURM")
    assert {"ok      cpu", "ok      CPU threads"} <= {line.partition(":")[0] for line in output.splitlines()}


def test_it_imports_no_torch(doctor: Doctor) -> None:
    _, output = doctor(python=("-X", "importtime", "-m", "har_sweep.doctor"))
    imported = {line.rpartition("|")[2].strip() for line in output.splitlines() if line.startswith("import time:")}
    assert "har_sweep.spec.weights" in imported
    assert not imported & {"torch", "timm", "torchvision"}


def test_missing_data_and_weights_that_cannot_be_had_are_problems_with_remedies(doctor: Doctor) -> None:
    status, output = doctor("data=har", "model=resnet18,vit_base")
    assert status == 1
    assert "har_sweep.prefetch data=har" in line_of(output, "problem data")
    for model in ("resnet18", "vit_base"):
        assert f"har_sweep.prefetch model={model}" in line_of(output, f"problem weights of {model}")
    assert output.splitlines()[-1] == "A sweep cannot run here: 3 to mend."


def test_models_that_timm_does_not_know_are_problems_with_the_nearest_names(doctor: Doctor) -> None:
    status, output = doctor("model=timm", "model.timm_name=resnt18,test_vit,vit_tny_patch16_224")
    assert status == 1
    assert "timm has no model 'resnt18'" in line_of(output, "problem weights of resnt18")
    assert "'vit_tiny_patch16_224'" in line_of(output, "problem weights of vit_tny_patch16_224")
    assert line_of(output, "note    weights of test_vit")
    status, output = doctor("model=timm", "model.timm_name=test_vit", f"paths.cache={sys.executable}/cache")
    assert status == 1
    assert "is a file" in line_of(output, "problem weights of test_vit")


def test_data_and_weights_that_are_there_are_found_without_network(doctor: Doctor) -> None:
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        image = doctor.folder / "pictures" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"listed, not decoded")
    (doctor.folder / "mine.safetensors").write_bytes(b"")
    status, output = doctor("data=folder", "data.root=pictures", "model.weights=mine.safetensors")
    assert status == 0, output
    assert "3 images" in line_of(output, "ok      data")
    assert "on this machine" in line_of(output, "ok      weights of resnet18")


def test_cached_weights_need_no_hub(doctor: Doctor) -> None:
    snapshot = doctor.folder / "hub/models--timm--resnet18.a1_in1k/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    doctor.env["HF_HUB_CACHE"] = str(doctor.folder / "hub")
    status, output = doctor("model=resnet18", "model.weights=pretrained")
    assert status == 0, output
    assert "on this machine" in line_of(output, "ok      weights of resnet18")


def test_a_folder_for_records_that_cannot_be_made_is_a_problem(doctor: Doctor) -> None:
    (doctor.folder / "file").touch()
    status, output = doctor("paths.runs=file/runs")
    assert status == 1
    assert "is a file" in line_of(output, "problem paths.runs")
    assert "paths.runs=FOLDER" in line_of(output, "problem paths.runs")


def test_servers_that_answer_are_reachable_and_a_key_is_never_shown(doctor: Doctor, server: str) -> None:
    doctor.env |= {"HF_ENDPOINT": server, "WANDB_BASE_URL": server}
    status, output = doctor("model.weights=pretrained")
    assert status == 0, output
    assert "downloaded when the sweep starts" in line_of(output, "note    weights of resnet18")
    assert line_of(output, "ok      Hugging Face hub")
    assert "not logged in" in line_of(output, "note    Weights & Biases")
    key = "0123456789abcdef" * 3
    (doctor.folder / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {key}\n")
    (doctor.folder / ".netrc").chmod(0o600)
    _, by_file = doctor()
    (doctor.folder / ".netrc").unlink()
    doctor.env["WANDB_API_KEY"] = key
    _, by_variable = doctor()
    for output in (by_file, by_variable):
        assert "logged in" in line_of(output, "ok      Weights & Biases")
        assert key not in output


def test_nothing_that_hangs_holds_it_up(doctor: Doctor) -> None:
    waiting: list[socket.socket] = []

    def both_wait() -> bool:
        """Whether the first that asks is still there when the second comes."""
        waiting.extend(silent.accept()[0] for _ in range(2))
        waiting[0].setblocking(False)
        try:
            while waiting[0].recv(4096):
                pass
        except BlockingIOError:
            return True
        return False

    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as pool:
        side_by_side = pool.submit(both_wait)
        doctor.env |= dict.fromkeys(("HF_ENDPOINT", "WANDB_BASE_URL"), f"http://127.0.0.1:{silent.getsockname()[1]}")
        doctor.command("sbatch", "exit 0")
        doctor.command("sinfo", "exec /bin/sleep 60")
        status, output = doctor()
        assert side_by_side.result()
    for connection in waiting:
        connection.close()
    assert status == 0
    for subject in ("Hugging Face hub", "Weights & Biases", "SLURM"):
        assert line_of(output, f"note    {subject}")


def test_a_cluster_that_answers_is_named_by_its_partitions(doctor: Doctor) -> None:
    doctor.command("sbatch", "exit 0")
    doctor.command("sinfo", "echo gpu; echo cpu; echo gpu")
    assert "partitions: cpu, gpu" in line_of(doctor()[1], "ok      SLURM")
    doctor.command("sinfo", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in line_of(doctor()[1], "note    SLURM")


def test_a_missing_package_is_a_problem_and_another_version_a_note(doctor: Doctor) -> None:
    doctor.distribution("har_sweep", "0.1.0", "needed_one", "Needed.Two[more]", "unneeded; extra == 'dev'")
    doctor.distribution("needed_one", "7.0")
    status, output = doctor()
    assert status == 1
    assert "not installed: needed-two ->" in line_of(output, "problem packages")
    assert "make doctor" in line_of(output, "problem packages")
    doctor.distribution("needed_two", "8.0", "needed_three; extra == 'more'", "rich; extra == 'less'")
    doctor.distribution("needed_three", "9.0")
    status, output = doctor()
    assert status == 0
    assert "needed-one 7.0 (lock: none), needed-three 9.0" in line_of(output, "note    packages")
    assert "rich" not in line_of(output, "note    packages")


def test_a_package_that_does_not_import_is_reported_not_met(doctor: Doctor) -> None:
    (doctor.folder / "site").mkdir()
    (doctor.folder / "site" / "hydra.py").write_text("raise ImportError('libhydra.so is gone')\n")
    status, output = doctor()
    assert status == 1
    assert "libhydra.so is gone" in line_of(output, "problem everything else")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "hydra", ["-m", "experiment=tune", "--multirun hydra/sweeper=optuna trainer.epochs=interval(1,3)"]
)
def test_a_sweep_s_own_command_line_may_stand_behind_it(hydra: str, doctor: Doctor) -> None:
    status, output = doctor(*hydra.split(), "model=resnet18,vit_tiny")
    assert status == 0, output
    assert line_of(output, "note    weights of resnet18")
    assert line_of(output, "note    weights of vit_tiny")


def test_overrides_that_cannot_be_used_end_with_status_2(doctor: Doctor) -> None:
    status, output = doctor("model=resnet81")
    assert status == 2
    assert "resnet18" in output
    assert "Traceback" not in output


def test_a_terminal_gets_a_table(doctor: Doctor) -> None:
    ours, theirs = pty.openpty()
    doctor.env |= {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "har_sweep.doctor", "hardware.precision=fp32"]
    process = subprocess.Popen(command, cwd=doctor.folder, env=doctor.env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux says so where others say end of file
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    assert b"A sweep can run here." in shown
    assert b"\x1b[32mok" in shown


@pytest.mark.gpu
def test_torch_is_asked_about_the_gpu(doctor: Doctor) -> None:
    # Where the driver's libraries are, if the system itself does not know (Colab), and which cards are ours.
    doctor.env |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if name in os.environ}
    status, output = doctor()
    assert status == 0, output
    cards = [line for line in output.splitlines() if line.startswith("ok      cuda: ")]
    assert cards
    assert all("GiB, " in card for card in cards)
    assert "CUDA" in line_of(output, "ok      torch on the GPU")


@pytest.mark.parametrize(
    ("lost", "others", "expected"),
    [
        ({"others": 0.01}, 0.1, "ok      load: other processes use 0.1 of 2 cores"),
        (
            {"others": 0.9},
            1.9,
            "note    load: other processes use 1.9 of 2 cores: what is measured now would be marked as disturbed -> "
            "End what else runs here, or `python -m har_sweep.measure RUN` when it is over.",
        ),
        (None, 0.0, "note    load: not known: this system does not count it -> See to it that sweeps are alone here."),
    ],
)
def test_the_load_now_and_what_it_would_do_to_costs(
    lost: dict[str, float] | None, others: float, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from har_sweep.cost.disturbance import Disturbance
    from har_sweep.doctor.__main__ import show
    from har_sweep.doctor.machine import load

    show([load(Disturbance(1.0, lost, others, 2))])
    assert capsys.readouterr().out.splitlines()[0] == expected
