"""What the environment says to Weights & Biases is heard while planning, and what the command line says beats it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import wandb.env
from small import small_spec

from har_sweep.config.compose import compose
from har_sweep.config.schema import TrackingConfig
from har_sweep.config.wandb_variables import NOT_FOLLOWED, OF_A_TRIAL, VARIABLES, decided, followed, not_followed
from har_sweep.errors import InputError
from har_sweep.launch.sweep import where_tracked

PAGE = (Path(__file__).parent.parent / "docs" / "wandb.md").read_text()
SAID = {
    "WANDB_MODE": "online", "WANDB_PROJECT": "theirs", "WANDB_ENTITY": "team", "WANDB_RUN_GROUP": "night",
    "WANDB_NAME": "first", "WANDB_NOTES": "smaller rate", "WANDB_TAGS": "a, b", "WANDB_JOB_TYPE": "eval",
    "WANDB_DIR": "/tmp", "WANDB_DISABLE_GIT": "true", "WANDB_X_DISABLE_STATS": "1",
}  # fmt: skip


def test_every_variable_is_followed_where_no_key_is_given() -> None:
    found = decided(TrackingConfig(), SAID)
    assert found == TrackingConfig(
        mode="online", project="theirs", entity="team", group="night", name="first", notes="smaller rate",
        tags=["a", "b"], job_type="eval", dir="/tmp", git=False, system_metrics=False,
    )  # fmt: skip
    assert set(SAID) == {name for name, _ in VARIABLES.values()}
    assert where_tracked(found).startswith("Weights & Biases: online, team/theirs")
    assert list(followed(found, SAID).values()) == list(SAID)
    off = {"WANDB_DISABLED": "true"}
    assert followed(decided(TrackingConfig(), off), off) == {"mode": "WANDB_DISABLED"}


def test_the_plan_says_what_each_variable_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_TAGS": "a, b", "WANDB_NOTES": "smaller rate", "WANDB_DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(name, value)
    told = "; notes smaller rate (WANDB_NOTES); tags a, b (WANDB_TAGS); git off (WANDB_DISABLE_GIT)."
    assert where_tracked(decided(TrackingConfig())) == f"Weights & Biases: offline, har_sweep{told}"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert (
        where_tracked(decided(TrackingConfig())) == f"Weights & Biases: offline, theirs (WANDB_PROJECT says so){told}"
    )


@pytest.mark.parametrize("name", ["a/b", "a:b", "x" * 129])
def test_a_project_that_the_client_would_refuse_is_refused_while_planning(name: str) -> None:
    with pytest.raises(InputError, match=f"tracking.project={name} cannot be"):
        decided(TrackingConfig(project=name), {})
    with pytest.raises(InputError, match=f"WANDB_PROJECT={name} cannot be"):
        decided(TrackingConfig(), {"WANDB_PROJECT": name})


def test_what_is_given_beats_its_variable_and_without_both_there_is_a_default() -> None:
    given = compose(["tracking=wandb_online", "tracking.project=mine", "tracking.tags=[]", "tracking.git=true"])
    found = decided(given.tracking, SAID | {"WANDB_MODE": "offline"})
    assert (found.mode, found.project, found.tags, found.git, found.entity) == ("online", "mine", [], True, "team")
    found = decided(compose([]).tracking, {"WANDB_PROJECT": ""})
    assert (found.mode, found.project, found.tags, found.git, found.job_type) == (
        "offline", "har_sweep", [], True, "train",
    )  # fmt: skip
    assert where_tracked(found) == ""
    assert decided(compose(["tracking=none"]).tracking, {"WANDB_MODE": "nonsense"}).mode is None


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
        ({"WANDB_SWEEP_ID": "abc"}, "online"),
        ({"WANDB_SWEEP_ID": "abc", "WANDB_MODE": "offline"}, "offline"),
    ],
)
def test_the_mode_is_what_the_client_would_take_it_for(said: dict[str, str], mode: str) -> None:
    assert decided(TrackingConfig(), said).mode == mode


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"WANDB_MODE": "ofline"}, "WANDB_MODE=ofline is no mode"),
        ({"WANDB_MODE": "shared"}, "WANDB_MODE=shared is for runs that several processes write"),
        ({"WANDB_DISABLED": "perhaps"}, "WANDB_DISABLED=perhaps is neither true nor false"),
        ({"WANDB_DISABLE_GIT": "perhaps"}, "WANDB_DISABLE_GIT=perhaps is neither"),
        ({"WANDB_DIR": __file__}, "is a file, not a folder"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_with_the_remedy(said: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as e:
        decided(TrackingConfig(), said)
    assert e.value.hint


def test_a_variable_that_nobody_goes_by_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = small_spec(tmp_path, "tracking=wandb")
    monkeypatch.setenv("WANDB_RESUME", "must")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    spec = small_spec(tmp_path, "tracking=wandb")
    assert [warning.split()[0] for warning in spec.warnings if "not followed" in warning] == [
        "WANDB_RUN_ID", "WANDB_RESUME",
    ]  # fmt: skip
    assert (spec.config.tracking.project, spec.run_id) == ("theirs", usual.run_id)
    assert not [w for w in small_spec(tmp_path, "tracking=none").warnings if "WANDB" in w]


def test_a_trial_is_where_its_sweep_is() -> None:
    said = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "def", "WANDB_PROJECT": "theirs"}
    found = decided(TrackingConfig(), said)
    assert found.trial == said
    assert not_followed(found, said) == []
    with pytest.raises(InputError, match=r"tracking.project=mine: a W&B agent's trial is where its sweep is"):
        decided(TrackingConfig(project="mine"), said)


def test_the_page_has_every_variable_of_the_client() -> None:
    known = {value for value in vars(wandb.env).values() if isinstance(value, str) and value.startswith("WANDB_")}
    ours = {*SAID, *NOT_FOLLOWED, *OF_A_TRIAL, "WANDB_DISABLED"}
    assert not {name for name in known | ours if f"`{name}`" not in PAGE}
