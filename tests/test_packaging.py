"""One lock for pip and conda, a wheel that finds its configs, and the same commands for people and CI."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"}


def pins(platform: dict[str, str], python: str) -> dict[str, str]:
    """What the lock installs there; two pins of one package would be a mistake of the lock."""
    marked = {**platform, "python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        [specifier] = requirement.specifier
        assert specifier.operator == "==", line
        if requirement.marker is None or requirement.marker.evaluate(marked):
            assert requirement.name not in found, f"{requirement.name} is pinned twice on {marked}"
            found[requirement.name] = specifier.version
    return found


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", [LINUX, MACOS], ids=["linux", "macos"])
def test_the_lock_pins_every_dependency_as_pyproject_allows(platform: dict[str, str], python: str) -> None:
    assert python in SpecifierSet(PROJECT["requires-python"])
    pinned = pins(platform, python)
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
        assert pinned.get(canonicalize_name(requirement.name), "nothing") in requirement.specifier, requirement


def test_only_linux_gets_cuda() -> None:
    def cuda(platform: dict[str, str]) -> set[str]:
        return {name for name in pins(platform, "3.11") if name.startswith(("nvidia-", "cuda-", "triton"))}

    assert {"nvidia-cudnn-cu13", "triton"} < cuda(LINUX)
    assert cuda(MACOS) == {"nvidia-ml-py"}


def test_the_lock_names_no_server() -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links", (ROOT / "requirements.lock").read_text())


def test_conda_reads_the_same_lock_and_pins_only_python() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies.pop() == {"pip": ["-c requirements.lock", "-e ."]}
    python, pip = dependencies
    assert pip == "pip"
    assert python.split("=")[0] == "python"
    assert python.split("=")[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize(
    ("goal", "package"),
    [("sweep", "-e '.'"), ("test", "-e '.[dev,compact,elpv,hub,openvino,search]'"), ("bench", "-e '.[bench]'")],
)
def test_make_installs_from_the_lock(goal: str, package: str) -> None:
    commands = run("make", "--dry-run", "--always-make", goal).stdout.replace("\\\n", "")
    assert "-c requirements.lock" in commands
    assert package in commands
    assert set(EXTRAS) == {"bench", "compact", "dev", "elpv", "hub", "openvino", "search"}


def test_the_next_hydra_is_one_that_pyproject_allows() -> None:
    allowed = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    lines = [line for line in (ROOT / "requirements-hydra-1.4.txt").read_text().splitlines() if "==" in line]
    nexts = {r.name: next(iter(r.specifier)).version for r in map(Requirement, lines)}
    assert nexts["hydra-core"].startswith("1.4")
    for name in ("hydra-core", "omegaconf"):
        assert allowed[name].contains(nexts[name], prereleases=True)
    commands = run("make", "--dry-run", "--always-make", "test").stdout
    assert f"PYTHONPATH={ROOT}/.venv/hydra-1.4" in commands
    assert "--target .venv/hydra-1.4 -r requirements-hydra-1.4.txt" in commands


def test_what_is_installed_here_is_what_the_lock_pins() -> None:
    pinned = pins(LINUX if sys.platform == "linux" else MACOS, f"{sys.version_info[0]}.{sys.version_info[1]}")
    names = [canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]]
    assert {name: importlib.metadata.version(name) for name in names} == {name: pinned[name] for name in names}


def test_an_old_python_is_refused_by_make_with_the_remedy(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    old.chmod(0o755)
    made = run("make", f"PYTHON={old}", ".venv/.made", cwd=tmp_path)
    assert made.returncode != 0
    assert "needs Python 3.11 or later" in made.stderr
    assert "Python 3.9.2" in made.stderr
    assert "make PYTHON=python3.11" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_what_pip_warns_of_is_kept_in_a_file_and_shown_where_it_fails(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    python, installed = tmp_path / ".venv/bin/python", tmp_path / ".venv/.sweep"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\necho 'Downloading torch.whl (100.0 MB)'; echo 'WARNING: of a location' >&2; exit ${FAILS:-0}\n"
    )
    python.chmod(0o755)
    (tmp_path / ".venv/.made").touch()
    failed = run("make", ".venv/.sweep", cwd=tmp_path, FAILS="1")
    assert failed.returncode != 0
    assert "WARNING: of a location" in failed.stderr
    assert not installed.exists()
    # Beneath another make, such as `make test`, it would name the folder as well.
    made = run("make", "--no-print-directory", ".venv/.sweep", cwd=tmp_path)
    assert made.stderr == ""
    assert made.stdout.splitlines()[1:] == [
        "Downloading torch.whl (100.0 MB)",
        "What pip warned of is in .venv/pip-warnings.txt.",
    ]
    assert installed.exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, as site-packages has it."""
    folder = tmp_path_factory.mktemp("wheel")
    offline = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    built = run(sys.executable, "-m", "pip", "wheel", *offline, "--no-build-isolation", "-w", folder, ROOT)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    put = run(sys.executable, "-m", "pip", "install", *offline, "--target", folder / "site", wheel)
    assert put.returncode == 0, put.stderr
    return folder / "site"


def test_a_wheel_finds_its_configs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "from har_sweep.config.compose import CONF, compose; print(CONF, compose(['model=vit_tiny']).model.timm_name)"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.stdout.split() == [str(installed / "har_sweep" / "conf"), "vit_tiny_patch16_224"], done.stderr
    theirs, ours = installed / "har_sweep" / "conf", ROOT / "conf"
    assert {p.relative_to(theirs) for p in theirs.rglob("*.yaml")} == {
        p.relative_to(ours) for p in ours.rglob("*.yaml")
    }


def test_a_wheel_has_all_that_the_report_s_page_is_made_of(installed: Path) -> None:
    def files(root: Path) -> set[Path]:
        return {p.relative_to(root) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts}

    assert files(installed / "multirun_analysis") == files(ROOT / "multirun_analysis")


def test_a_wheel_brings_our_hydra_plug_ins_and_leaves_room_for_others(installed: Path, tmp_path: Path) -> None:
    theirs = {path.relative_to(installed) for path in (installed / "hydra_plugins").rglob("*.py")}
    assert theirs == {path.relative_to(ROOT) for path in (ROOT / "hydra_plugins").rglob("*.py")}
    assert Path("hydra_plugins/__init__.py") not in theirs
    assert (installed / "har_sweep" / "py.typed").exists()
    code = "import hydra_plugins.har_sweep_plugins as ours; print(ours.__file__)"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).stdout.startswith(str(installed))
    shown = run(sys.executable, "-m", "har_sweep", "--info", "plugins", cwd=tmp_path, PYTHONPATH=str(installed))
    assert {"HarSweepLauncher", "HarSweepSweeper"} < set(shown.stdout.split()), shown.stderr


def test_an_editable_install_brings_our_hydra_plug_ins(tmp_path: Path) -> None:
    code = f"import hatchling.build; print(hatchling.build.build_editable({str(tmp_path)!r}))"
    built = run(sys.executable, "-c", code)
    assert built.returncode == 0, built.stderr
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "site", "zip")
    folders = [Path(line) for file in (tmp_path / "site").glob("*.pth") for line in file.read_text().splitlines()]
    assert [folder for folder in folders if (folder / "hydra_plugins" / "har_sweep_plugins").is_dir()] == [ROOT]


ANOTHER_PROGRAM = """
import sys
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    print("words:", config.words, sorted({"torch", "har_sweep"} & set(sys.modules)))

main()
"""


def test_another_hydra_program_beside_ours_is_not_disturbed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "another.py").write_text(ANOTHER_PROGRAM)
    command = [sys.executable, "another.py", "-m", "+words=a,b", "hydra.sweep.dir=out"]
    done = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("words")] == ["words: a []", "words: b []"]
    assert done.stderr == ""


def test_a_wheel_brings_its_lock_to_the_doctor(installed: Path, tmp_path: Path) -> None:
    code = "from har_sweep.doctor.packages import packages; print(*packages(), sep='\\n')"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert "as locked: torch" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("argument", "status", "module"),
    [("--help", 0, "har_sweep.config.schema"), ("model=resnet81", 2, "har_sweep.config.compose")],
)
def test_help_and_a_wrong_option_answer_without_torch(
    argument: str, status: int, module: str, installed: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "har_sweep", argument]
    done = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == status, done.stderr[-2000:]
    assert module in imported
    assert not imported & {"torch", "timm", "torchvision", "wandb", "pandas"}
    assert "resnet18" in done.stdout + done.stderr


def test_commits_and_hosted_ci_run_what_people_run() -> None:
    goals = re.search(r"exec make ([a-z -]+)", (ROOT / ".ci" / "run").read_text())
    assert goals
    assert goals[1].split() == ["lint", "types", "test", "test-cluster"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == ["make lint", "make types"]
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    linux, macos = (step["run"].split(" #")[0] for step in job["steps"][-2:])
    assert linux.endswith(" .ci/run")
    assert macos == "make lint types test"


WINDOWS = """
import multiprocessing.context, psutil, sys
sys.platform, linux = "win32", sys.platform
import har_sweep.processes
sys.platform = linux  # for what else is imported
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
"""


@pytest.mark.parametrize("command", ["__main__", "find_lr", "measure", "predict", "export"])
def test_on_windows_a_sweep_is_refused_in_a_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "runs" / "resnet18-0").mkdir(parents=True)
    runs = {"measure": ["resnet18-0"], "predict": ["resnet18-0", "photo.jpg"], "export": ["resnet18-0"]}
    words = runs.get(command, ["model=resnet18"])
    code = f"import har_sweep.app, har_sweep.launch.terminal{WINDOWS}from har_sweep.{command} import main\n"
    asked = run(sys.executable, "-c", f"{code}sys.platform = 'win32'\nsys.exit(main({words}))", cwd=tmp_path)
    assert asked.returncode == 2, asked.stderr
    assert "this is Windows." in asked.stdout
    assert "WSL 2" in asked.stdout


def test_the_analysis_needs_nothing_that_windows_lacks(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("model,accuracy,params\na,0.8,10\nb,0.7,5\n")
    code = f"{WINDOWS}from multirun_analysis.__main__ import main\nsys.exit(main())"
    asked = run(sys.executable, "-c", code, "table.csv", "--accuracy", "accuracy", "--cost", "params:min", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert (tmp_path / "report" / "index.html").exists()
