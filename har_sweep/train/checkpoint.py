"""What is kept of a model: its weights alone, or a training's whole state, to go on from to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.utils.serialization import config

from har_sweep.errors import RunFailure
from har_sweep.files import atomic, atomic_file
from har_sweep.record.folder import RunPaths


def random_state() -> dict[str, torch.Tensor]:
    """Of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def save(paths: RunPaths, state: dict[str, Any], randomness: list[dict[str, torch.Tensor]]) -> None:
    """Write ``state`` and each rank's random state; a kill at any moment leaves the old file or the new one, whole.

    Raises
    ------
    OSError
        if the disk is full; the old checkpoint is then untouched.
    ClaimLost
        if the run is another process's by now.
    """
    with atomic(paths.checkpoint, check=paths.check) as file:
        try:
            with without_checksums():
                torch.save({**state, "randomness": randomness}, file)
        except RuntimeError as e:  # torch's zip writer hides the OSError of the file below it
            raise OSError(f"could not write {paths.checkpoint.name}: {e}") from e


def without_checksums() -> AbstractContextManager[None]:
    """Inside, ``torch.save`` leaves out its CRC-32: two fifths of its time, and ``torch.load`` never compares them."""
    return config.patch("save.compute_crc32", False)  # type: ignore[attr-defined]


def save_weights(model: nn.Module, path: Path, check: Callable[[], None]) -> None:
    """A model's tensors under their own names as safetensors, whole or not at all.

    Raises
    ------
    OSError
        if the disk is full.
    ClaimLost
        if the run is another process's by now.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        atomic_file(path, lambda file: save_file(state, file), check)
    except SafetensorError as e:  # safetensors hides the OSError of the file below it
        raise OSError(f"could not write {path.name}: {e}") from e


def load(path: Path, rank: int) -> dict[str, Any] | None:
    """The state in ``path``, or None if there is no checkpoint; the rank's random state is taken up at once.

    Raises
    ------
    RunFailure
        ``checkpoint_unreadable`` if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise RunFailure(
            "checkpoint_unreadable",
            f"{path} cannot be read: {e}",
            "Delete it to start this run anew.",
        ) from e
    randomness = state.pop("randomness")[rank]
    torch.set_rng_state(randomness["cpu"])
    if "cuda" in randomness and torch.cuda.is_available():
        torch.cuda.set_rng_state(randomness["cuda"])
    return state
