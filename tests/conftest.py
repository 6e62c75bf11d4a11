"""What every test starts from: quiet libraries that report to nobody, and no GPU test without a GPU."""

from __future__ import annotations

import os
import signal

import pytest

os.environ.update(
    WANDB_ERROR_REPORTING="false",
    WANDB_SILENT="true",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    OMP_WAIT_POLICY="PASSIVE",  # threads that wait busily take each other's cores where several processes train
)
# Tests in the background of a script ignore SIGINT, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
