"""What is kept of a training: the model's weights alone, or all of it, to go on from to the same bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.utils.serialization import config as serialization

from har_sweep.cost.training import TrainingClock
from har_sweep.errors import RunFailure
from har_sweep.events import Line
from har_sweep.files import atomic, atomic_file
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import Epoch, TrainingCost
from har_sweep.train.learner import Learner
from har_sweep.train.session import Session


@dataclass
class Trained:
    """How far training has come: all that a checkpoint holds beside the learner's state."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    cost: TrainingCost = field(default_factory=TrainingCost)
    clock: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Trained:
        history, cost = [Epoch(**epoch) for epoch in state["history"]], TrainingCost(**state["cost"])
        return cls(**{**state, "history": history, "cost": cost})


def save(learner: Learner, trained: Trained, session: Session) -> None:
    """Write the checkpoint of all ranks; where it cannot be, training goes on and says so.

    Of a complete training only the selected weights are needed again, which have a file of their own.
    """
    spec = session.spec
    randomness = session.ranks.gather(_random_state())
    if session.ranks.rank > 0:
        return
    try:
        complete = trained.epoch == spec.config.trainer.epochs
        learned = {} if complete else {"learner": learner.state_dict()}
        if complete and trained.best_epoch is None:
            save_weights(learner.evaluated, spec.paths)
        _write(spec.paths, learned | {"trained": asdict(trained), "randomness": randomness})
    except OSError as e:
        session.warn(
            f"No checkpoint could be written ({e}); training goes on, and could only resume from an older one."
        )


def resume(learner: Learner, clock: TrainingClock, session: Session) -> Trained:
    """Where the checkpoint left off, or the beginning. A damaged one raises RunFailure (``checkpoint_unreadable``)."""
    path = session.spec.paths.checkpoint
    if not path.exists():
        return Trained()
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise RunFailure(
            "checkpoint_unreadable", f"{path} cannot be read: {e}", "Delete it to start this run anew."
        ) from e
    randomness, trained = saved["randomness"][session.ranks.rank], Trained.restore(saved["trained"])
    torch.set_rng_state(randomness["cpu"])
    if "cuda" in randomness and torch.cuda.is_available():
        torch.cuda.set_rng_state(randomness["cuda"])
    clock.load_state_dict(trained.clock)
    where = "training is complete"
    if trained.epoch < session.spec.config.trainer.epochs:
        learner.load_state_dict(saved["learner"])
        where = f"epoch {trained.epoch + 1}, after step {trained.step} of {session.steps}"
    session.tell(Line(f"Going on from the checkpoint: {where}"))
    return trained


def save_weights(model: nn.Module, paths: RunPaths) -> None:
    """A model's tensors under their own names as ``paths.selected``; raises OSError if the disk is full."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        atomic_file(paths.selected, lambda file: save_file(state, file), paths.check)
    except SafetensorError as e:  # safetensors hides the OSError of the file below it
        raise OSError(f"could not write {paths.selected.name}: {e}") from e


def _random_state() -> dict[str, torch.Tensor]:
    """Of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _write(paths: RunPaths, state: dict[str, Any]) -> None:
    """Write the checkpoint; a kill at any moment leaves the old file or the new one, whole."""
    with atomic(paths.checkpoint, check=paths.check) as file:
        try:
            # Its CRC-32 would take two fifths of the time, and ``torch.load`` never compares it.
            with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                torch.save(state, file)
        except RuntimeError as e:  # torch's zip writer hides the OSError of the file below it
            raise OSError(f"could not write {paths.checkpoint.name}: {e}") from e
