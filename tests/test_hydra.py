"""A Hydra user replays Hydra's documentation: each line works as it is told there, or is refused with what to write.

One table holds the command lines that only compose, run in this process; the last what a sweep and a run leave.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hydra.conf import HydraConf
from hydra.version import __version__
from omegaconf import OmegaConf
from small import SMALL, har_sweep, one_after_another, runs, small_spec

from har_sweep.__main__ import main
from har_sweep.config.arguments import Mode, explain
from har_sweep.config.compose import Composed, compose, compose_runs
from har_sweep.config.schema import SlurmLauncher, keys
from har_sweep.config.unread import refuse_unread
from har_sweep.errors import InputError
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen

NEXT_HYDRA = __version__ >= "1.4"
ROOT = Path(__file__).parent.parent
# A user's own files: a package of configs that registers a resolver, callbacks, and configs old and wrong.
YOURS = {
    "mine/__init__.py": "from omegaconf import OmegaConf, __version__\n"
    "register = OmegaConf.register_new_resolver if __version__ < '2.4' else OmegaConf.register_resolver\n"
    "register('twice', lambda word: 2 * word, replace=True)\n",
    "failing/__init__.py": "len(3)\n",
    "mine/mine.yaml": "defaults: [config, _self_]\nseed: 7\nhydra: {searchpath: [pkg://mine], mode: MULTIRUN}\n",
    "mine/single.yaml": "defaults: [config, _self_]\nseed: 7\n",
    "mine/model/tiny.yaml": "name: tiny\ntimm_name: test_vit\nweights: scratch\n",
    "mine/experiment/old.yaml": "# @package _global_\nhardware:\n  slurm:\n    partition: gpu\n",
    "mine/experiment/typo.yaml": "# @package _global_\ntrainer:\n  epoch: 3\n",
    "mine/experiment/nodes.yaml": "# @package _global_\ndefaults: [override /hydra/launcher: slurm]\n"
    "hydra:\n  launcher:\n    nodes: 2\n",
    "mine/experiment/foreign.yaml": "# @package _global_\ndefaults: [override /hydra/launcher: basic]\n",
    "mine/experiment/help.yaml": "# @package _global_\nhydra: {help: {header: mine}}\n",
    "mine/experiment/loud.yaml": "# @package _global_\nhydra: {verbose: true}\n",
    "mine/experiment/copied.yaml": "# @package _global_\nhydra: {job: {env_copy: [PATH]}}\n",
    "mine/experiment/absent.yaml": "# @package _global_\nhydra: {job: {env_copy: [NOWHERE_SET]}}\n",
    "mine/hardware/old.yaml": "launcher: slurm\n",
    "mine/hydra/env/site.yaml": "# @package hydra\njob: {name: of_this_site}\n",
    "mine/hydra/launcher/site.yaml": "defaults: [slurm]\npartition: gpu\ngpus_per_node: 1\n",
    "mine/hydra/callbacks/told.yaml": "told: {_target_: told.Told, file: '${oc.env:TOLD}'}\n",
    "told.py": """
import logging, os
from hydra.experimental.callback import Callback

class Told(Callback):
    def __init__(self, file):
        self.file = file
    def note(self, what, config):
        logging.getLogger("told").info("said %s", what)
        with open(self.file, "a") as file:
            print(what, os.getpid(), os.environ.get("MARK"), config.hydra.job.name, os.getcwd(), sep="|", file=file)
    def on_run_start(self, config, **_): self.note("run_start", config)
    def on_run_end(self, config, **_): self.note("run_end", config)
    def on_multirun_start(self, config, **_): self.note("multirun_start", config)
    def on_multirun_end(self, config, **_): self.note("multirun_end", config)
    def on_job_start(self, config, **_): self.note("job_start", config)
    def on_job_end(self, config, job_return, **_): self.note(f"job_end {job_return.return_value:.3f}", config)
""",
}
SEARCH = "'hydra.searchpath=[file://YOURS/mine]'"
LISTED = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Hydra 1.4 has no such callback any more: it gives a job again from its folder.
PICKLE = "+hydra.callbacks.pickle._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
PICKLES = {".hydra/config.pickle", ".hydra/job_return.pickle"}

# What is typed after `python -m har_sweep`, and what then stands on the screen; the exit status is 0.
SHOWN = [
    ("--cfg job", ["timm_name: resnet18", "weights: ${data.default_weights}"]),
    ("--cfg job --resolve -p model", ["# @package model", "weights: if_available"]),
    ("--cfg job --package optimizer.lr model=vit_base", ["0.0001"]),
    ("--cfg hydra", ["hydra:", "subdir: ${hydra.job.num}"]),
    ("--cfg all", ["hydra:", "timm_name: resnet18"]),
    ("--cfg job -p _global_ seed=5", ["seed: 5"]),
    ("--info", ["Defaults Tree", "Installed Hydra Plugins"]),
    ("--info all", ["Config search path", "HarSweepSweeper"]),
    ("--info config", ["Defaults List", "timm_name: resnet18"]),
    ("--info defaults model=vit_base", ["| model/vit_base"]),
    ("--info defaults-tree", ["optimizer: adam", "hydra/launcher: local"]),
    ("--info plugins", ["HarSweepLauncher", "HarSweepSweeper", "ZshCompletion"]),
    (f"--info searchpath {SEARCH}", ["YOURS/mine", "conf"]),
    ("--hydra-help", ["hydra/job_logging: default, disabled, none, stdout", "har_sweep -sc install=bash"]),
    ("--hydra-help hydra/hydra_help=default hydra.hydra_help.template=Hi_there", ["Hi_there"]),
    ("--config-dir YOURS/mine --config-name single --cfg job -p seed", ["7"]),
    ("-cp YOURS/mine -cn single --cfg job -p seed", ["7"]),
    ("-cd YOURS/mine model=tiny --cfg job -p model.timm_name", ["test_vit"]),
    (f"{SEARCH} model=tiny --cfg job -p model.timm_name", ["test_vit"]),
    ("'hydra.searchpath=[pkg://mine]' 'sweep.name=${twice:ab}' -c job --resolve -p sweep.name", ["abab"]),
    ("'sweep.name=${hydra:job.name}' -c job --resolve -p sweep.name", ["har_sweep"]),
    ("'sweep.name=${hydra:runtime.choices.model}' -c job --resolve -p sweep.name", ["resnet18"]),
    ("+experiment@_global_=paper --cfg job -p trainer.selection", ["last"]),
    ("~tracking --cfg job -p tracking.backend", ["wandb"]),
    ("'data.root=\"a\x1b[31mb\"' --cfg job -p data.root", ["a\\x1b[31mb"]),
    ("-c hydra -p hydra.run.dir hydra/output=default", ["outputs/"]),
    (f"{SEARCH} hydra/env=site -c hydra -p hydra.job.name", ["of_this_site"]),
    (f"{SEARCH} hydra/launcher=site hydra.launcher.qos=low -c hydra -p hydra.launcher", ["gpu", "qos: low"]),
    ("-c hydra -p hydra.launcher hydra/launcher=submitit_slurm hydra.launcher.mem_gb=8", ["HarSweepLauncher", "8"]),
]

# What is refused: exit status 2, these words, nothing left behind.
REFUSED = [
    # what does not go together
    ("--cfg job -m", ["--multirun and --cfg do not go together"]),
    ("--cfg", ["--cfg job, --cfg hydra or --cfg all"]),
    ("--resolve", ["Add --cfg job"]),
    ("--cfg job seed=1,2", ["'seed=1,2' lists several values"]),
    ("--info nonsense", ["defaults-tree"]),
    ("--cfg job -p trainr", ["trainr", "'trainer'"]),
    # folders that cannot be
    (f"hydra.run.dir={'a' * 256}", ["hydra.run.dir: aaa", "cannot be made: File name too long"]),
    ("'hydra.run.dir=\"a\0b\"'", ["hydra.run.dir: a\\x00b cannot be made: embedded null byte"]),
    ("hydra.run.dir=/proc/mine", ["hydra.run.dir: /proc/mine cannot be made"]),
    (f"-m hydra.sweep.dir={'a' * 256}", ["hydra.sweep.dir=aaa", "cannot be written: File name too long"]),
    ("-m 'hydra.sweep.dir=\"a\0b\"'", ["hydra.sweep.dir=a\\x00b cannot be written: embedded null byte"]),
    ("-m hydra.sweep.dir=/proc/mine", ["hydra.sweep.dir=/proc/mine cannot be written"]),
    ("-cd nowhere --cfg job", ["--config-dir nowhere: there is no such folder"]),
    ("-cp nowhere", ["--config-path nowhere: there is no such folder"]),
    ("-cd YOURS/mine -cn nothing", ["nothing", "leave .yaml out"]),
    ("-sc install=tcsh", ["bash, zsh and fish"]),
    ("--experimental-rerun nothing", ["--experimental-rerun nothing: there is no job's config"]),
    ("--experimental-rerun YOURS/told.py", ["there is no job's config", "hydra.output_subdir=.hydra"]),
    ("-m hydra.mode=RUN seed=1,2", ["do not go together"]),
    ("-m hydra/sweeper=basic hydra/sweeper=har_sweep", ["a search has one sweeper"]),
    # what nobody would look at
    ("launch.wait=false", ["launch.wait=false does nothing for runs on this machine", "hydra/launcher=slurm"]),
    ("-m seed=1,2 launch.wait=false", ["launch.wait=false does nothing for runs on this machine"]),
    ("launch.parallel=2 hardware=slurm_cpu", ["launch.parallel=2", "hydra.launcher.array_parallelism=N"]),
    ("-m seed=1,2 scheduler.final_lr_fraction=0.1", ["does nothing with scheduler=constant", "scheduler=cosine"]),
    ("augmentation=none augmentation.crop_ratio=[1,1]", ["crop_ratio=[1,1] does nothing", "augmentation=imagenet"]),
    ("augmentation.randaugment_magnitude=5", ["randaugment_magnitude=5 does nothing", "augmentation=randaugment"]),
    ("hardware.device=cpu hardware.tf32=false", ["hardware.tf32=false does nothing with hardware.device=cpu"]),
    ("sweep.study_per=[model]", ["'sweep.study_per=[model]' is for a search", "Add -m hydra/sweeper=optuna"]),
    ("-m seed=1,2 tracking=none tracking.mode=online", ["tracking.mode=online does nothing with tracking=none"]),
    # groups and packages
    ("model@teacher=resnet18", ["There is no section 'teacher'", "objective=distill teacher=RUN", "There are model"]),
    ("+model@techer.x=resnet18", ["There is no section 'techer.x'"]),
    ("optimizer@_global_=sgd", ["optimizer@_global_", "leave @_global_ out"]),
    ("+optimizer@optimizer.x=sgd", ["no key 'optimizer.x'"]),
    ("+model=vit_base", ["model=vit_base"]),
    ("~nothing", ["There is no key 'nothing'"]),
    (f"{SEARCH} model=tny", ["There is no model 'tny'", "Did you mean 'tiny'?"]),
    ("-m 'model=glob(x*)'", ["matches nothing", "vit_tiny"]),
    ("-m 'optimizer.lr=interval(0,1)'", ["is not a list of choices", "hydra/sweeper=optuna"]),
    ("'seed=range(0,3)'", ["Add -m"]),
    ("model=choice(resnet18,vit_base)", ["Add -m"]),
    # files of the user's
    (f"{SEARCH} experiment=typo", ["experiment/typo.yaml: there is no key 'trainer.epoch'", "'trainer.epochs'"]),
    (f"{SEARCH} experiment=old", ["experiment/old.yaml: 'hardware.slurm' has moved", "gpus_per_node for gpus"]),
    (f"{SEARCH} hardware=old", ["hardware/old.yaml: 'hardware.launcher' has moved", "override /hydra/launcher: slurm"]),
    (f"{SEARCH} experiment=nodes", ["experiment/nodes.yaml: there is no key 'hydra.launcher.nodes'", "one node"]),
    (f"{SEARCH} experiment=foreign", ["hydra/launcher=basic", "hydra/launcher=local is this machine"]),
    (f"-m {SEARCH} experiment=foreign", ["hydra/launcher=basic", "hydra/launcher=local is this machine"]),
    (f"{SEARCH} experiment=help", ["hydra.help would do nothing"]),
    (f"{SEARCH} experiment=loud", ["hydra.verbose=True has nowhere to write", "hydra/job_logging=stdout"]),
    (f"{SEARCH} experiment=copied", ["hydra.job.env_copy would do nothing", "hydra.job.env_set"]),
    (f"{SEARCH} experiment=absent", ["hydra.job.env_copy would do nothing", "hydra.job.env_set"]),
    ("hydra.searchpath=[file:///no/where]", ["hydra.searchpath: there is no folder '/no/where'"]),
    ("hydra.searchpath=[pkg://nowhere.at.all]", ["there is no package 'nowhere.at.all'"]),
    (f"{SEARCH} seed=1,2", ["seed=1,2", "Add -m"]),
    (f"{SEARCH} hydra.sweep.dir=x", ["'hydra.sweep.dir=x' is for sweeps"]),
    ("-cd YOURS/mine -cn mine hydra.run.dir=x", ["'hydra.run.dir=x' is for a single run"]),
    ("hydra.searchpath=[pkg://failing]", ["the package 'failing' cannot be imported: TypeError", "len()"]),
    # names of before
    ("hardware.launcher=slurm", ["'hardware.launcher' has moved", "hydra/launcher=slurm"]),
    ("hardware.slurm.partition=gpu", ["'hardware.slurm.partition' has moved", "Write hydra.launcher.partition."]),
    ("hardware.slurm.gpus=2", ["Write hydra.launcher.gpus_per_node."]),
    ("hardware.slurm.gpu_type=a100", ["Write hydra.launcher.gpus_per_node=TYPE:N."]),
    ("hardware.slurm.memory_gib=2", ["Write hydra.launcher.mem_gb."]),
    ("hardware.slurm.time_minutes=2", ["Write hydra.launcher.timeout_min."]),
    ("+hardware.slurm.extra.licenses=a", ["Write hydra.launcher.additional_parameters.licenses."]),
    # Hydra's own keys
    ("hydra.run.dirr=x", ["There is no key 'hydra.run.dirr'", "'hydra.run.dir'"]),
    ("hydra/launchr=slurm", ["Hydra has no group 'hydra/launchr'", "'hydra/launcher'"]),
    ("hydra/job_logging=nothing", ["There is no hydra/job_logging 'nothing'", "stdout"]),
    ("hydra/launcher=joblib", ["hydra/launcher=joblib", "launch.parallel=N"]),
    ("~hydra/launcher", ["would take away what Hydra needs"]),
    ("hydra/launcher@x=local", ["where nobody reads them"]),
    ("hydra.job={name:x}", ["sets a whole section", "hydra.job.name=..."]),
    ("-m hydra.job.name=a,b", ["Hydra's own settings cannot be swept over"]),
    ("-m +hydra.sweeper.params.seed=0,1", ["'+hydra.sweeper.params.seed=\"0,1\"'"]),
    ("-m +hydra.sweeper.parms.seed=0", ["'hydra.sweeper.parms'", "hydra.sweeper.params"]),
    ("-m hydra/sweeper=ax", ["There is no hydra/sweeper 'ax'", "hydra-ax-sweeper"]),
    ("+hydra.callbacks.mine._target_=no.Where", ["hydra.callbacks.mine", "no.Where", "package.module.Class"]),
    ("hydra.launcher.partition=gpu", ["add hydra/launcher=slurm"]),
    ("hydra/launcher=slurm hydra.launcher.licenses=a", ["There is no key 'hydra.launcher.licenses'"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def yours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("yours")
    for file, text in YOURS.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text.replace("import logging, os", "import logging, os, sys"))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before, level


Told = tuple[int, str, str]


@pytest.fixture
def told(yours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Gives a command line; returns the exit status, what stood on the screen and what was left in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr(sys, "argv", ["-c"])  # which is no program that a shell could complete

    def tell(line: str) -> tuple[int, str, list[str]]:
        status = main(shlex.split(line.replace("YOURS", str(yours))))
        said = "".join(capsys.readouterr()).replace(str(yours), "YOURS")
        return status, said, sorted(path.name for path in tmp_path.iterdir())

    return tell


@pytest.mark.parametrize(("line", "words"), SHOWN, ids=[line for line, _ in SHOWN])
def test_what_hydra_documents_is_shown(line: str, words: list[str], told: Any) -> None:
    status, said, left = told(line)
    assert (status, left) == (0, []), said
    assert [word for word in words if word not in said] == [], said
    assert "Warning" not in said
    if line.startswith("--cfg job"):
        assert "HarSweepLauncher" not in said


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_cannot_be_is_refused_with_what_to_write(line: str, words: list[str], told: Any) -> None:
    status, said, left = told(line)
    assert (status, left) == (2, []), said
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in said
    assert "Error: " in said


def test_what_a_file_says_for_other_sweeps_is_not_refused() -> None:
    config = compose(["tracking=none", "tracking.mode=online", "launch.wait=false"])
    refuse_unread([Composed(["tracking=none"], config)])


def test_in_a_grid_what_a_run_does_not_read_tells_it_from_no_other(tmp_path: Path) -> None:
    here = [*SMALL, f"paths.runs={tmp_path}/runs"]
    grid = [
        [*here, f"scheduler={name}", f"scheduler.final_lr_fraction={fraction}"]
        for name in ("constant", "cosine")
        for fraction in (0.1, 0.2)
    ]
    constant, *cosine = plan(compose_runs(grid), Screen())
    assert [constant.places, *(each.places for each in cosine)] == [(0, 1), (2,), (3,)]
    assert constant.spec.config.scheduler.final_lr_fraction == 0
    assert constant.spec.label.endswith("scratch scheduler=constant")
    assert [each.spec.config.scheduler.final_lr_fraction for each in cosine] == [0.1, 0.2]
    assert constant.spec.run_id == small_spec(tmp_path).run_id


def test_every_kind_of_info_is_in_the_table() -> None:
    assert [what for what in LISTED if f"--info {what}" not in {" ".join(line.split()[:2]) for line, _ in SHOWN}] == []


def test_hydra_full_error_adds_the_traceback(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    status, said, _ = told("hydra.run.dirr=x")
    assert status == 2
    assert "Traceback" in said
    assert "Did you mean 'hydra.run.dir'?" in said
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


OFFERED = [  # of hydra-submitit-launcher 1.2.0's settings, those that a run can be asked for
    "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "partition", "qos", "comment", "constraint",
    "exclude", "gres", "account", "signal_delay_s", "array_parallelism",
]  # fmt: skip
NOT_HERE = [
    "submitit_folder", "tasks_per_node", "nodes", "stderr_to_stdout", "cpus_per_gpu", "gpus_per_task", "mem_per_gpu",
    "mem_per_cpu", "max_num_timeout",
]  # fmt: skip
SUBMITIT = [*OFFERED, *NOT_HERE, "additional_parameters", "setup"]


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_setting_of_submitit_s_launcher_that_means_nothing_here_says_what_does(name: str, told: Any) -> None:
    status, said, left = told(f"hydra/launcher=submitit_slurm hydra.launcher.{name}=1")
    assert (status, left) == (2, [])
    assert f"There is no key 'hydra.launcher.{name}'" in said
    assert re.search(r"hydra\.launcher\.\w+=N|hardware\.\w+|launch\.retries|paths\.runs|one file", said)


def test_all_other_settings_of_submitit_s_launcher_are_our_launcher_s() -> None:
    assert {key.path for key in keys(SlurmLauncher)} == {*OFFERED, "additional_parameters", "setup", "python"}
    overrides = [f"hydra.launcher.{name}=1" for name in OFFERED]
    assert explain(["hydra/launcher=submitit_slurm", *overrides], "run")


SUBMITIT_LAUNCHER = f"""
from dataclasses import dataclass
from typing import Any
from hydra.core.config_store import ConfigStore
@dataclass
class SlurmQueueConf:
    _target_: str = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
{"".join(f"    {name}: Any = None{chr(10)}" for name in SUBMITIT)}
ConfigStore.instance().store(
    group="hydra/launcher", name="submitit_slurm", node=SlurmQueueConf(), provider="submitit_launcher"
)
"""


@pytest.mark.parametrize("installed", [True, False], ids=["with the plug-in", "without"])
def test_submitit_s_launcher_is_slurm_s_and_never_trains_where_there_is_none(installed: bool, tmp_path: Path) -> None:
    plugin = tmp_path / "site" / "hydra_plugins" / "hydra_submitit_launcher"
    plugin.mkdir(parents=True)
    if installed:
        (plugin / "__init__.py").write_text(SUBMITIT_LAUNCHER)
    (tmp_path / "here").mkdir()
    given = [*SMALL, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hardware.precision=fp32"]
    environment = {"PYTHONPATH": _path(tmp_path / "site"), "PATH": "/nowhere"}
    for status, said in one_after_another(given, ["-m", *given], cwd=tmp_path / "here", **environment):
        assert status == 2, said
        assert "There is no sbatch on this machine" in said
    assert list(tmp_path.glob("here/runs/*/run.log")) == []


def _path(*folders: Path) -> str:
    """PYTHONPATH with these in front."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("__init__.py", "", ["har_sweep's own Hydra plug-in is not loaded", "Install har_sweep again"]),
        ("broken.py", "nothing + 1", ["cannot be loaded", "hydra_plugins/broken.py", "NameError", "uninstall"]),
        ("broken.py", "def (", ["cannot be loaded", "hydra_plugins/broken.py", "SyntaxError", "uninstall"]),
    ],
    ids=["ours is hidden", "another raises", "another cannot be read"],
)
def test_a_plug_in_that_cannot_be_loaded_is_a_sentence_with_the_remedy(
    file: str, text: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "site" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "site" / "hydra_plugins" / file).write_text(text)
    (tmp_path / "here").mkdir()
    asked = har_sweep(*SMALL, cwd=tmp_path / "here", PYTHONPATH=_path(tmp_path / "site"), COLUMNS="500")
    assert asked.returncode == 2
    assert [word for word in words if word not in asked.stdout] == []
    assert "Traceback" not in asked.stdout + asked.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_a_plug_in_of_others_that_lacks_a_module_is_left_out_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "lacking.py").write_text("import nothing_like_it")
    asked = har_sweep("--cfg", "job", "-p", "seed", cwd=tmp_path, PYTHONPATH=_path(tmp_path), COLUMNS="500")
    assert asked.returncode == 0
    assert "hydra_plugins.lacking" in asked.stdout + asked.stderr
    assert "It is left out." in asked.stdout + asked.stderr


BROKEN_SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

class Broken(Sweeper):
    def __init__(self):
        import nothing_like_it
    def setup(self, **given): ...
    def sweep(self, arguments): ...

ConfigStore.instance().store(group="hydra/sweeper", name="broken", node={"_target_": "hydra_plugins.broken.Broken"})
"""


def test_a_sweeper_that_lacks_a_module_is_refused_by_name_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "broken.py").write_text(BROKEN_SWEEPER)
    asked = har_sweep("-m", "hydra/sweeper=broken", cwd=tmp_path, PYTHONPATH=_path(tmp_path), COLUMNS="500")
    assert asked.returncode == 2
    said = asked.stdout + asked.stderr
    assert "broken could not begin: ModuleNotFoundError No module named 'nothing_like_it'." in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("runs/*/record.json"))


# A run and a sweep, each with much of Hydra asked for at once.

AROUND = [
    "hydra/callbacks=[told]", "hydra/job_logging=default", "hydra.output_subdir=.hydra", "hydra.job.chdir=true",
    *([] if NEXT_HYDRA else [PICKLE]),
]  # fmt: skip
RUN = [
    *AROUND, "hydra.run.dir=one", "hydra.job.name=mine", "+hydra.job.env_set.MARK=of_the_run",
    "hydra/hydra_logging=default", "hydra.verbose=[told]", "hydra.mode=RUN",
    "hydra.job_logging.formatters.simple.format='MINE-%(message)s'",
]  # fmt: skip
ONCE = ["launch.parallel=2", "sweep.name=${twice:ab}", "data.name=${hydra:job.name}"]
SWEEP = [
    *AROUND, "+hydra.job.env_set.MARK=of_the_sweep", "hydra.mode=MULTIRUN", "hydra.sweep.dir=many",
    "hydra.sweep.subdir=${hydra:job.override_dirname}",
    "hydra.job.config.override_dirname.kv_sep=-", "hydra.job.config.override_dirname.item_sep=+",
    f"hydra.job.config.override_dirname.exclude_keys=[{','.join(o.split('=')[0] for o in [*SMALL, *ONCE])}]",
    "+hydra.sweeper.params.seed='1,2'", "hydra.job.name=mine", "hydra/sweeper=har_sweep", "hydra/launcher=local",
]  # fmt: skip
QUIET = ["hydra.output_subdir=.hydra", "hydra.verbose=true", "hydra/output=har_sweep", "hydra/env=default"]


def _told(folder: Path) -> list[list[str]]:
    """What callbacks were told, those of the sweep and then those of the run."""
    return [line.split("|") for line in (folder / "told").read_text().splitlines()]


@pytest.fixture(scope="module")
def ran(yours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sweep of two runs was, with a resolver of the user's; then one that is quiet but for Hydra; then a
    single run."""
    place, search = tmp_path_factory.mktemp("place"), f"hydra.searchpath=[file://{yours}/mine,pkg://mine]"
    small = [*SMALL, "trainer.epochs=1"]
    lines = [*small, *ONCE, search, *SWEEP], ["-m", *small, "seed=3", *QUIET], [*small, search, *RUN]
    done = one_after_another(*lines, cwd=place, PYTHONPATH=_path(yours), TOLD=str(place / "told"))
    for status, said in done:
        assert status == 0, said
        assert "Warning" not in said, said
    (place / "said_of_the_quiet").write_text(done[1][1])
    return place


def test_a_sweep_s_jobs_have_the_folders_logs_and_variables_they_were_given(ran: Path) -> None:
    assert sorted(path.name for path in (ran / "many").iterdir()) == ["multirun.yaml", "seed-1", "seed-2"]
    for folder in (ran / "many" / "seed-1", ran / "many" / "seed-2"):
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        written = {f".hydra/{name}" for name in ("config.yaml", "hydra.yaml", "overrides.yaml")}
        assert files == {"mine.log", *written, *(() if NEXT_HYDRA else PICKLES)}
        assert "said job_start" in (folder / "mine.log").read_text()
        assert f"seed={folder.name[-1]}" in (folder / ".hydra" / "overrides.yaml").read_text()
    found = {record.seed: record for record in runs(ran).values()}
    assert [found[seed].status for seed in (1, 2)] == ["done", "done"]
    assert [found[seed].sweeps for seed in (1, 2)] == [["abab"], ["abab"]]


def test_a_sweep_s_callbacks_are_called_where_its_jobs_run(ran: Path) -> None:
    calls = _told(ran)[:-4]
    first, *jobs, last = calls
    assert (first[0], last[0]) == ("multirun_start", "multirun_end")
    assert sorted(call[0].split()[0] for call in jobs) == ["job_end", "job_end", "job_start", "job_start"]
    assert len({call[1] for call in calls}) == 3
    assert {(call[2], call[3]) for call in jobs if call[0] == "job_start"} == {("of_the_sweep", "mine")}
    assert {Path(call[4]).name for call in jobs} == {"seed-1", "seed-2"}
    numbers = sorted(f"{record.metrics['val'].accuracy:.3f}" for record in runs(ran).values() if record.seed in (1, 2))
    assert sorted(call[0].split()[1] for call in jobs if " " in call[0]) == numbers


def test_a_run_has_the_folder_log_and_variables_it_was_given(ran: Path) -> None:
    folder = ran / "one"
    assert {path.name for path in folder.iterdir()} == {".hydra", "mine.log"}
    log = (folder / "mine.log").read_text()
    assert "MINE-said job_start" in log
    calls = _told(ran)[-4:]
    assert [call[0].split()[0] for call in calls] == ["run_start", "job_start", "job_end", "run_end"]
    assert calls[1][2:4] == ["of_the_run", "mine"]
    assert Path(calls[1][4]).name == "one"
    if not NEXT_HYDRA:
        returned = pickle.loads((folder / ".hydra" / "job_return.pickle").read_bytes()).return_value
        assert f"{returned:.3f}" == calls[2][0].split()[1]


def test_a_job_is_given_again_from_what_it_left(ran: Path, yours: Path) -> None:
    job = ran / "one" if NEXT_HYDRA else ran / "one" / ".hydra" / "config.pickle"
    again = har_sweep("--experimental-rerun", str(job), cwd=ran, TOLD=str(ran / "told_again"), PYTHONPATH=_path(yours))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 done already" in again.stdout
    assert "Warning" not in again.stderr


def test_what_hydra_writes_of_a_job_without_a_folder_lies_in_its_run_s(ran: Path) -> None:
    [run_id] = [run_id for run_id, record in runs(ran).items() if record.seed == 3]
    folder = ran / "runs" / run_id
    assert OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.output_dir == str(folder)
    assert (folder / "record.json").exists()
    assert "[HYDRA] Hydra 1." in (ran / "said_of_the_quiet").read_text()  # hydra.verbose: its own messages
    assert not (ran / ".hydra").exists()


# Nothing below `hydra` is accepted and ignored.


def _modes_shown(name: str) -> set[str]:
    """In which of the two modes some line of the tables above shows what a key or group does."""
    lines = [("run", line) for line, _ in SHOWN] + [("run", o) for o in RUN] + [("sweep", o) for o in [*SWEEP, *QUIET]]
    return {mode for mode, line in lines if re.search(rf"(^|[\s'+~]){re.escape(name)}[=.@]", line)}


def _refused(override: str, mode: Mode) -> bool:
    try:
        explain([override], mode)
    except InputError as e:
        return bool(e.hint)
    return False


# Hydra composes these before it tells a run from a sweep, so that one of both is enough.
COMPOSED = ("hydra.searchpath", "hydra.hydra_logging", "hydra.mode", "hydra.launcher", "hydra.job.config.")


@pytest.mark.parametrize("name", [key.path for key in keys(HydraConf, "hydra.")])
def test_no_key_of_hydra_is_accepted_and_ignored(name: str) -> None:
    modes = {mode for mode in get_args(Mode)[:2] if not _refused(f"{name}=1", mode)}
    shown = _modes_shown(name) | _modes_shown(name.replace(".", "/", 1) if name.count(".") == 1 else name)
    assert not modes or shown, f"{name} is accepted, and no line of the tables shows what it does"
    if not name.startswith(COMPOSED):
        assert modes <= shown, f"{name} is accepted in a {modes - shown}, and no line of the tables shows what it does"


@pytest.mark.parametrize("name", [f"hydra/{group}" for default in HydraConf().defaults for group in default])
def test_no_group_of_hydra_is_accepted_and_ignored(name: str) -> None:
    option = "local" if name == "hydra/launcher" else "default"
    modes = {mode for mode in get_args(Mode)[:2] if not _refused(f"{name}={option}", mode)}
    assert not modes or _modes_shown(name), f"{name} is accepted, and no line of the tables shows what it does"


def test_hydra_has_no_key_that_these_tests_do_not_see() -> None:
    assert set(get_type_hints(HydraConf)) == {key.path.split(".")[1] for key in keys(HydraConf, "hydra.")}


# Shells. Each is a real one, in which the completion is installed as the help says.

PROGRAM = """#!/bin/sh
exec {python} -c 'import sys; sys.argv[0] = "har_sweep"; from har_sweep.__main__ import main; sys.exit(main())' "$@"
"""
ASKS = {
    "har_sweep optim": "optimizer=",  # a group
    "har_sweep model=vit_b": "model=vit_base",  # an option
    "har_sweep trainer.ep": "trainer.epochs=",  # a key
}
BASH = """
complete_line() {
  COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  hydra_bash_completion; printf '%s\\n' "${COMPREPLY[@]}"
}
"""
SHELLS = {
    "bash": ["bash", "--norc", "-c", 'eval "$(har_sweep -sc install=bash)"\n' + BASH],
    "zsh": [
        "zsh", "-f", "-c",
        "autoload -U +X compinit && compinit -u -D; autoload -U +X bashcompinit && bashcompinit\n"
        'eval "$(har_sweep -sc install=zsh)"\nemulate ksh\n' + BASH,
    ],
    "fish": [
        "fish", "--no-config", "-c",
        "har_sweep -sc install=fish | source\nfunction complete_line; complete -C $argv[1]; end\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_groups_options_and_keys(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "har_sweep"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    *command, script = SHELLS[shell]
    for line in ASKS:
        script += f"complete_line {shlex.quote(line)}\n"
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    asked = subprocess.run(
        [*command, script], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    answers = asked.stdout.split()
    assert [answer for answer in ASKS.values() if answer not in answers] == [], asked.stdout + asked.stderr
    assert "model=resnet18" not in answers
    assert asked.stderr == ""


def test_a_completion_taken_away_is_gone(tmp_path: Path) -> None:
    gone = har_sweep("-sc", "uninstall=bash", cwd=tmp_path)
    assert gone.returncode == 0
    assert "unset hydra_bash_completion" in gone.stdout


def test_a_group_s_options_and_a_number_by_model_reach_the_plan_from_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    models = ["model=resnet18,vit_tiny", "optimizer={resnet18:sgd}", "trainer.epochs={vit_tiny:2}"]
    others = [line for line in SMALL if not line.startswith(("model", "trainer.epochs"))]
    assert main(["-m", *others, *models, "model.weights=scratch", "launch.dry_run=true"]) == 0
    planned = " ".join(capsys.readouterr().out.split())
    assert "resnet18 from scratch, seed 0: 6 epochs, batch 16, sgd" in planned
    assert "vit_tiny_patch16_224 from scratch, seed 0: 2 epochs, batch 16, adamw" in planned
