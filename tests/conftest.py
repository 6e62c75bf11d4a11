"""What every test starts from: quiet libraries that report to nobody, images that are there already, and no GPU test
without a GPU."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from linkless import without_links

if TYPE_CHECKING:
    from har_sweep.spec.run_spec import RunSpec

os.environ.update(
    WANDB_ERROR_REPORTING="false",
    WANDB_SILENT="true",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    OMP_WAIT_POLICY="PASSIVE",  # threads that wait busily take each other's cores where several processes train
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of hundreds of processes would compile all modules again
# Where the sample is drawn and decoded, once for all tests; pytest's workers are told by the process that starts them.
IMAGES = None if "TEST_IMAGES" in os.environ else tempfile.mkdtemp(prefix="har_sweep-images-")
os.environ.setdefault("TEST_IMAGES", IMAGES or "")
TORCH_THREADS = list[int]()  # as torch itself decides, where a test has imported it
# Tests in the background of a script ignore SIGINT, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The longest files, the longest first, so that no process is left with one when the others are done.
LONGEST = [
    "test_faults", "test_sweep", "test_page", "test_run", "test_tracking", "test_claim", "test_search",
    "test_wandb_source", "test_notebook", "test_api", "test_distributed", "test_hydra", "test_weights", "test_distill",
    "test_plots", "test_config", "test_wandb_agent", "test_real", "test_security", "test_full_circle",
]  # fmt: skip


@pytest.fixture
def linkless(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system without hard links."""
    with without_links(tmp_path) as folder:
        yield folder


@pytest.fixture(autouse=True)
def all_threads() -> Iterator[None]:
    """A run with few threads that is executed in a test leaves the next test all of them, with which a process of its
    own would compute: sums over images depend on it in their last bit."""
    yield
    if TORCH_THREADS:
        sys.modules["torch"].set_num_threads(TORCH_THREADS[0])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run of the sample that is done, for tests that only read it."""
    from small import small_spec

    from har_sweep.events import tell_nobody
    from har_sweep.run.execute import execute
    from har_sweep.stop import Stop

    spec = small_spec(tmp_path_factory.mktemp("finished"))
    assert execute(spec, tell_nobody, Stop()).status == "done"
    return spec


def pytest_unconfigure() -> None:
    if IMAGES:
        shutil.rmtree(IMAGES, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What was imported is garbage to nobody: a run that is executed in a test need not look at it, as none started by
    the command does (launch/preload.py). How many threads torch takes is known before a run changes it."""
    gc.collect()
    gc.freeze()
    if torch := sys.modules.get("torch"):
        TORCH_THREADS.append(torch.get_num_threads())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cost = {name: len(LONGEST) - n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: -cost.get(item.path.stem, 0))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
