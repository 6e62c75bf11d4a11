"""The training loop: linear, resumable to the same bits, and always aware of what it waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import nn

from har_sweep.cost.training import TrainingClock
from har_sweep.device.ranks import Ranks
from har_sweep.errors import Damaged, Interrupted, RunFailure
from har_sweep.events import Line, Phase
from har_sweep.record.record import Epoch
from har_sweep.train.checkpoint import Checkpoints, Trained, check_weights, resume
from har_sweep.train.epoch import Pace, diverged, train_epoch
from har_sweep.train.evaluate import Forward, forward_of, predict
from har_sweep.train.learner import Learner
from har_sweep.train.objective import build_objective
from har_sweep.train.session import Session


def train(model: nn.Module, session: Session, on_epoch: Callable[[Trained], None]) -> Trained:
    """Train to the last epoch, from the checkpoint where there is one, and leave the selected weights in ``model``.

    All ranks do so at once, and decide together when to save and stop; rank 0 alone validates, writes and tells.

    Raises
    ------
    RunFailure
        ``non_finite_loss`` or ``out_of_memory``; ``killed``, if another rank was; ``weights_damaged``, if the selected
        epoch's are not what was written, or a teacher's not what was planned with.
    Interrupted
        after any rank was asked to stop and a checkpoint was written.
    ClaimLost
        when another process has taken the run over.
    """
    spec, ranks, stop = session.spec, session.ranks, session.stop
    epochs = spec.config.trainer.epochs
    ranks.join(session.compute.device)
    clock = TrainingClock(session.compute.device, session.meter(ranks.count))
    objective = build_objective(model, spec, len(session.dataset.classes), session.compute, clock.teaching)
    learner = Learner(objective, spec.config, session.compute, ranks, session.steps, session.tell, spec.halvings)
    pace, checkpoints = Pace(session.images * epochs), Checkpoints(learner, session)
    trained = resume(learner, clock, session)
    selected_elsewhere = trained.epoch == epochs
    note_device(trained, clock, session)
    if spec.config.hardware.compile and trained.epoch < epochs:
        session.tell(Phase("Compiling in the first steps, a minute or two"))

    with stop.deferred():
        while trained.epoch < epochs:
            learning_rate = train_epoch(learner, trained, clock, pace, checkpoints, session)
            trained.epoch += 1
            if ranks.rank == 0:
                validate(learner, trained, learning_rate, checkpoints, session)
            trained.step, trained.loss_sum, trained.epoch_seconds = 0, 0.0, 0.0
            stopping, due = ranks.agree(stop, checkpoints.due_after_epoch(trained))
            if stopping or due:
                checkpoints.save(trained)
                on_epoch(trained)  # after the checkpoint: nothing is told that a resumed run would compute once more
                stopping, _ = ranks.agree(stop, False)
            if stopping:
                raise Interrupted(ranks.reason(stop))
    ranks.leave()

    if learner.evaluated is not model:
        model.load_state_dict(learner.evaluated.state_dict())
    if ranks.rank == 0 and (selected_elsewhere or trained.best_epoch not in (None, epochs)):
        try:
            model.load_state_dict(load_file(check_weights(trained, spec.paths)))
        except Damaged as e:
            raise RunFailure(
                "weights_damaged", f"The weights of the selected epoch are lost: {e}.", "The same command trains anew."
            ) from e
    return trained


def note_device(trained: Trained, clock: TrainingClock, session: Session) -> None:
    """Take this device into the training's; where another began it, say so, for the times of the two do not add up."""
    name = session.compute.device_name
    if trained.devices[-1:] == [name]:
        return
    if trained.devices:
        complete = trained.epoch == session.spec.config.trainer.epochs
        where = "all of it" if complete else f"it up to step {trained.step} of epoch {trained.epoch + 1}"
        session.warn(
            f"{trained.devices[-1]} trained {where}, and {name} goes on with it: their times do not add up, and are "
            "not to be compared."
        )
        if not complete:
            clock.another_device()
    trained.devices.append(name)


def validate(
    learner: Learner, trained: Trained, learning_rate: float, checkpoints: Checkpoints, session: Session
) -> None:
    """Evaluate on val and put the epoch into the history; hold the weights if they are the best so far."""
    began, trainer = time.monotonic(), session.spec.config.trainer
    which = f"Epoch [{trained.epoch}/{trainer.epochs}]"
    session.tell(Phase(f"{which}: validating"))
    forward = forward_of(learner.evaluated.eval(), session.spec.model, session.compute)
    val = predict(watched(forward, session.ranks), session, "val")
    if not val.finite:  # the last step's loss was that of the weights before it
        raise diverged(math.nan, trained.epoch, session.steps, session.spec)
    train_loss, seconds = trained.loss_sum / session.images, trained.epoch_seconds + time.monotonic() - began
    trained.history.append(Epoch(trained.epoch, train_loss, val.nll, val.accuracy, learning_rate, seconds))
    if trainer.selection == "best" and is_best(trained.history):
        trained.best_epoch = trained.epoch
        checkpoints.hold_best(trained)
    session.tell(Line(f"{which}, Loss: {train_loss:.4f}, Val Accuracy: {100 * val.accuracy:.2f}%"))


def watched(forward: Forward, ranks: Ranks) -> Forward:
    """``forward``, as long as all ranks live."""

    def watching(images: torch.Tensor) -> torch.Tensor:
        ranks.check()
        return forward(images)

    return watching


def is_best(history: list[Epoch]) -> bool:
    """Whether the last epoch's val accuracy is above all earlier ones'; the first of equals stays the best."""
    return all((history[-1].val_accuracy or 0) > (epoch.val_accuracy or 0) for epoch in history[:-1])
