"""Whatever is typed for a key, a run is planned or refused in a sentence: nothing else, and without torch."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import msgspec
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from har_sweep.config.compose import _compose, compose_runs
from har_sweep.config.identity import identify, make_run_id
from har_sweep.config.schema import SlurmLauncher, keys
from har_sweep.errors import InputError
from har_sweep.launch.journal import sweep_folder
from har_sweep.launch.objective import check_objective
from har_sweep.launch.slurm.options import sbatch_flags, sbatch_options

KEYS = [key.path for key in (*keys(), *keys(SlurmLauncher, "hydra.launcher."))]
BASE = ["hardware=slurm_cpu", "hardware.precision=fp32"]
EDGES = [
    "null", "true", "0", "-1", "1", "0.5", "1e-320", "1e400", "nan", "-inf", str(2**31), str(10**30), "0x10", "1_000",
    "[]", "[0,0]", "[1,2]", "[nan,1,1]", "[null]", "[[1]]", "{}", "{a:1}", "{a:{b:[inf]}}", "''", "' '", "???", "'???'",
    "..", "../../x", "/", "a/b", "~", "~x/y", "*", "x" * 400, "${nothing}", "${seed}", "'${'", "'${oc.env:NONE}'",
    '"a\\x1b"', "'a\x1b[31m'", "'\u202e'", "'\x00'", "\udcff", "a=b", "a,b", "[a", "'a", "ä", "_target_",
]  # fmt: skip
TEXTS = st.text(max_size=8).map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str))
SCALARS = st.one_of(NUMBERS, TEXTS, st.sampled_from(["null", "true", "false"]))
LISTS = st.lists(SCALARS, max_size=4).map(lambda values: f"[{','.join(values)}]")
VALUES = st.one_of(st.sampled_from(EDGES), SCALARS, LISTS, st.text(max_size=6))


@cache
def base() -> DictConfig:
    return _compose(BASE)


def load(choice: list[str]) -> DictConfig:
    """As Hydra composes it, but for the files, which are read once."""
    config = deepcopy(base())
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(choice), config)
    return config


@given(st.sampled_from(KEYS), VALUES)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_value_of_any_key_is_taken_or_refused_in_a_sentence(key: str, value: str) -> None:
    try:
        run = compose_runs([[f"{key}={value}"]], load)[0]
        check_objective(run.config.sweep.objective)
    except InputError:
        return
    # What is taken can be planned: it has a run id and folders, can be noted, and sbatch can be asked for it.
    identity = identify(run.config, weights="scratch", dataset="", split="", device="cpu", precision="fp32")
    runs = Path("runs")
    folders = [runs / make_run_id(run.config.model.name, identity), sweep_folder(runs, run.config.sweep.name or "x")]
    assert [folder.parent for folder in folders] == [runs, runs / ".sweeps"]
    assert max(len(folder.name.encode()) for folder in folders) < 200
    msgspec.json.encode(run.config)
    if run.slurm:
        sbatch_flags(sbatch_options(run.slurm, run.config.hardware))
