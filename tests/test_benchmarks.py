"""Benchmarks measure fairly: rivals take turns in processes of their own, and ratios are of pairs."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from har_sweep.spec.hardware import Device

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import turns  # noqa: E402


def counting(answer: turns.Answer, step: int) -> None:
    value = 0
    while True:
        value += step
        answer((value, os.getpid()))


def test_rivals_rest_while_the_other_measures_and_who_begins_changes() -> None:
    order = []
    with turns.rivals((counting, 1), (counting, 10)) as asks:

        def noted(name: str, number: int) -> tuple[int, int]:
            order.append(name)
            found: tuple[int, int] = asks[number]()
            return found

        ours, theirs = turns.take_turns(lambda: noted("ours", 0), lambda: noted("theirs", 1), pairs=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [value for value, _ in ours] == [1, 2, 3]  # a measurement each, none in advance
    assert [value for value, _ in theirs] == [10, 20, 30]
    assert len({pid for _, pid in [*ours, *theirs]} | {os.getpid()}) == 3


def start_method(answer: turns.Answer) -> None:
    answer(multiprocessing.get_start_method())


def test_a_rival_starts_processes_as_a_script_does() -> None:
    script = "import multiprocessing; print(multiprocessing.get_start_method())"
    usual = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    with turns.rivals((start_method,)) as (ask,):
        assert ask() == usual


def test_the_ratio_is_the_median_of_the_pairs_own() -> None:
    pairs = turns.Pairs(ours=[1.0, 10.0, 2.0], theirs=[2.0, 30.0, 8.0])
    assert pairs.ratios == [2.0, 3.0, 4.0]
    assert pairs.texts() == ["2 s", "8 s", "3.00", "2.00 to 4.00"]


def test_the_last_line_is_json_and_the_tables_are_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    turns.table("What", ["a", "b"], [["1", "2"]])
    turns.result(ratio=2.5)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[2:5] == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    assert json.loads(lines[-1]) == {"ratio": 2.5}


def test_every_program_is_run_by_the_command_and_says_what_it_measures() -> None:
    shown = subprocess.run([sys.executable, BENCHMARKS, "--help"], capture_output=True, text=True, check=True).stdout
    helpers = {"__main__", "turns", "photographs", "plain_script", "tuned_script", "timm_script", "hydra_app"}
    programs = {file.stem for file in BENCHMARKS.glob("*.py")} - helpers
    assert all(program in shown for program in programs)
    assert all((BENCHMARKS / f"{program}.py").read_text().startswith('"""') for program in programs)


def test_without_a_card_the_gpus_benchmarks_say_so_and_pass() -> None:
    ended = subprocess.run(
        [sys.executable, BENCHMARKS, "--device", "cuda"],
        capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 0
    assert ended.stdout == "No CUDA device is here, so nothing was measured. `make bench` measures this processor.\n"


def test_processors_of_one_name_and_different_instructions_have_results_of_their_own() -> None:
    spec = importlib.util.spec_from_file_location("benchmarks_main", BENCHMARKS / "__main__.py")
    assert spec
    assert spec.loader
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    sets = {"avx2": "avx avx2 fma", "avx512_bf16": "avx avx2 avx512_bf16 avx512f", "amx_bf16": "amx_bf16 avx512_bf16"}
    for best, instructions in sets.items():
        assert main.machine(Device("cpu", "AMD EPYC", None, False, instructions=instructions), 2) == (
            f"AMD EPYC {best} 2 cores"
        )
    readme = (BENCHMARKS.parent / "README.md").read_text()
    linked = re.findall(r"\]\((benchmarks/results/.*?)\)", readme)
    for file in linked:
        title = (BENCHMARKS.parent / file).read_text().splitlines()[0].removeprefix("# ")
        assert main.results_file(title) == BENCHMARKS.parent / file
    assert linked
