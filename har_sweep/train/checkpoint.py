"""What is kept of a training: the model's weights alone, or all of it, to go on from to the same bits.

A checkpoint ends with a hash of itself, and names the selected weights by their epoch and their hash: nothing is gone
on from that is not what was once written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.utils.serialization import config as serialization

from har_sweep.cost.disturbance import Disturbance
from har_sweep.cost.training import TrainingClock
from har_sweep.data.decode import PREPROCESSING
from har_sweep.errors import Damaged
from har_sweep.events import Line
from har_sweep.files import Sealed, check_seal, digest
from har_sweep.record.description import Description
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import Epoch, TrainingCost
from har_sweep.train.learner import Learner
from har_sweep.train.session import Session

SAVING_SHARE = 0.05  # of the time, at most, in which a GPU waits for its checkpoints


@dataclass
class Trained:
    """How far training has come: all that a checkpoint holds beside the learner's state.

    ``weights_digest`` is of the file of the selected weights, empty while there is none; ``devices`` are the names of
    those that it was trained on, one after the other.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    weights_digest: str = ""
    cost: TrainingCost = field(default_factory=TrainingCost)
    clock: dict[str, Any] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)

    @property
    def selected_epoch(self) -> int:
        """The best so far, or the last where that is what is selected."""
        return self.best_epoch or self.epoch

    @property
    def disturbed(self) -> Disturbance:
        """What its steps went through."""
        return Disturbance(**self.clock["disturbed"])

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Trained:
        history, cost = [Epoch(**epoch) for epoch in state["history"]], TrainingCost(**state["cost"])
        return cls(**{**state, "history": history, "cost": cost})


class Checkpoints:
    """Writes a training's checkpoints, and knows when the next is due; rank 0 decides that for all."""

    def __init__(self, learner: Learner, session: Session) -> None:
        self._learner, self._session = learner, session
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self._best: dict[str, torch.Tensor] | None = None

    def hold_best(self, trained: Trained) -> None:
        """Take the weights as they are, the best so far, for the next checkpoint; a copy, unless that comes at once."""
        tensors, trains_on = self._learner.evaluated.state_dict(), not self.due_after_epoch(trained)
        self._best = {name: tensor.detach().to("cpu", copy=trains_on) for name, tensor in tensors.items()}

    def due_within_epoch(self) -> bool:
        """Whether the last one is older than ``trainer.checkpoint_minutes``."""
        return self._age > 60 * self._session.spec.config.trainer.checkpoint_minutes and self._session.ranks.rank == 0

    def due_after_epoch(self, trained: Trained) -> bool:
        """Whether to write one: always of a complete training, else if it is worth its time."""
        worth_it = is_worth_it(self._session.compute.device.type, self._save_seconds, self._age)
        return (worth_it or self._is_complete(trained)) and self._session.ranks.rank == 0

    def _is_complete(self, trained: Trained) -> bool:
        return trained.epoch == self._session.spec.config.trainer.epochs

    @property
    def _age(self) -> float:
        return time.monotonic() - self._saved_at

    def save(self, trained: Trained) -> None:
        """Write the checkpoint of all ranks; where it cannot be, training goes on and says so.

        Of a complete training only the selected weights are needed again, which have a file of their own.

        Raises
        ------
        OSError
            if there is no room for the best weights.
        """
        began, learner, session = time.monotonic(), self._learner, self._session
        spec, randomness = session.spec, session.ranks.gather(_random_state())
        if session.ranks.rank > 0:
            return
        if self._best is not None:
            keep_weights(self._best, trained, session)
            self._best = None
        try:
            complete = self._is_complete(trained)
            learned = {} if complete else {"learner": learner.state_dict()}
            if complete and trained.best_epoch is None:
                keep_weights(learner.evaluated.state_dict(), trained, session)
            _write(spec.paths, learned | {"trained": asdict(trained), "randomness": randomness})
            named = spec.paths.selected(trained.selected_epoch)
            spec.paths.remove(*(file for file in spec.paths.all_selected() if file != named))
        except OSError as e:
            session.warn(
                f"No checkpoint could be written ({e}); training goes on, and could only resume from an older one."
            )
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began


def is_worth_it(device: str, save_seconds: float, age_seconds: float) -> bool:
    """Whether to write a checkpoint after an epoch, where the last is so old and took so long.

    A GPU waits meanwhile, and may train an epoch in little more time: a break loses ``1 / SAVING_SHARE`` times what
    writing takes, and the epoch that it falls into. On a CPU an epoch takes much longer than a checkpoint.
    """
    return device == "cpu" or save_seconds <= SAVING_SHARE * age_seconds


def resume(learner: Learner, clock: TrainingClock, session: Session) -> Trained:
    """Where the checkpoint left off, or the beginning, also where it or the weights that it names are damaged."""
    paths = session.spec.paths
    if not paths.checkpoint.exists():
        return Trained()
    try:
        saved = _read(paths.checkpoint)
        trained = Trained.restore(saved["trained"])
        if trained.weights_digest:
            check_weights(trained, paths)
    except Damaged as e:
        session.warn(f"{e}, or of an earlier version of har_sweep: this training begins anew.")
        return Trained()
    randomness = saved["randomness"][session.ranks.rank]
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


def keep_weights(tensors: Mapping[str, torch.Tensor], trained: Trained, session: Session) -> Path:
    """Write a model's tensors, under their own names, as the weights of the selected epoch; returns the file, which
    says of itself how to use them.

    Raises
    ------
    OSError
        if the disk is full.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file, described = session.spec.paths.selected(trained.selected_epoch), description(session, trained.selected_epoch)

    def save(temporary: Path) -> None:
        save_file(state, temporary, described.metadata())
        trained.weights_digest = digest(temporary).hex()

    try:
        session.spec.paths.save(file, save)
    except SafetensorError as e:  # safetensors hides the OSError of the file below it
        raise OSError(f"could not write {file.name}: {e}") from e
    return file


def description(session: Session, epoch: int | None = None) -> Description:
    """What the weights of a run say of themselves."""
    spec, plan = session.spec, session.spec.model
    return Description(
        spec.run_id, plan.timm_name, session.dataset.classes, plan.input_size, list(plan.mean), list(plan.std), epoch,
        PREPROCESSING,
    )  # fmt: skip


def check_weights(trained: Trained, paths: RunPaths) -> Path:
    """The file of the selected weights; raises Damaged if it is gone, or not what was written."""
    file = paths.selected(trained.selected_epoch)
    try:
        same = digest(file).hex() == trained.weights_digest
    except OSError as e:
        raise Damaged(f"{file} cannot be read ({e.strerror})") from e
    if not same:
        raise Damaged(f"{file} is damaged")
    return file


def _random_state() -> dict[str, torch.Tensor]:
    """Of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _write(paths: RunPaths, state: dict[str, Any]) -> None:
    """Write the checkpoint; a kill at any moment leaves the old file or the new one, whole."""
    with paths.writing(paths.checkpoint) as file:
        try:
            # Its CRC-32 would take two fifths of the time, and ``torch.load`` never compares it. What a GPU sends comes
            # faster into page-locked memory.
            saving = {"save.compute_crc32": False, "save.use_pinned_memory_for_d2h": True}
            with serialization.patch(saving):  # type: ignore[attr-defined]
                sealed = Sealed(file)
                torch.save(state, sealed)  # type: ignore[arg-type]  # it only writes
                sealed.seal()
        except RuntimeError as e:  # torch's zip writer hides the OSError of the file below it
            raise OSError(f"could not write {paths.checkpoint.name}: {e}") from e


def _read(file: Path) -> dict[str, Any]:
    """A checkpoint's content; raises Damaged if it is not what was written."""
    try:
        check_seal(file)
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return saved
    except Damaged:
        raise
    except Exception as e:
        raise Damaged(f"{file} cannot be read ({e})") from e
