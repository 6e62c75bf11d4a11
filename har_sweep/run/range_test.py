"""The learning-rate range test: at which rates a model learns, and from which on it diverges.

L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3: train for some steps while
the rate grows, here by a constant factor each step. What is suggested is a tenth of the rate at which the smoothed loss
is lowest, a margin that is common practice: at the lowest point it is about to diverge.
"""

from __future__ import annotations

import itertools
import math
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from har_sweep.config.schema import Config, SchedulerConfig
from har_sweep.data.dataset import Dataset
from har_sweep.device.ranks import Ranks
from har_sweep.events import Phase, Step, Tell
from har_sweep.model.build import build_model
from har_sweep.model.head import set_train_mode
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.epoch import Pace, draws, epoch_batches, train_step
from har_sweep.train.learner import Learner
from har_sweep.train.objective import build_objective
from har_sweep.train.session import Session

MEMORY = 0.9  # of the smoothing: what a step's loss leaves of what came before
DIVERGED = 3.0  # times the lowest smoothed loss: there is nothing more to learn from higher rates
MARGIN = 10.0  # from the rate of the lowest loss to the one that is suggested
LEAST_FALL, CERTAIN = 0.02, 3.0  # of the loss, and of its deviations: with less nothing was learned


@dataclass(frozen=True)
class Curve:
    """The loss in nats of each step, at its learning rate; ``smoothed`` is a running mean without its start's bias."""

    rates: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        means, mean = [], 0.0
        for step, loss in enumerate(self.losses, 1):
            mean = MEMORY * mean + (1 - MEMORY) * loss
            means.append(mean / (1 - MEMORY**step))
        return means

    @property
    def suggestion(self) -> float | None:
        """None where no rate made the loss fall by more than it varies from batch to batch, or the first did."""
        smoothed = self.smoothed
        lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
        first = self.losses[: max(1, len(self.losses) // 10)]
        changes = [(later - earlier) ** 2 for earlier, later in pairwise(self.losses[: lowest + 1])]
        faded = MEMORY ** (lowest + 1)
        averaged = (1 - MEMORY) / (1 + MEMORY) * (1 + faded) / (1 - faded) + 1 / len(first)
        varies = math.sqrt(fmean(changes or [0.0]) / 2 * averaged)  # the deviation of a fall from ``first`` to there
        fell = fmean(first) - smoothed[lowest] > max(LEAST_FALL * fmean(first), CERTAIN * varies)
        suggested = self.rates[lowest] / MARGIN
        return float(f"{suggested:.1g}") if fell and suggested >= self.rates[0] else None


def range_test(spec: RunSpec, steps: int, lowest: float, highest: float, tell: Tell) -> Curve:
    """Train a run's model for so many steps, as the run would, from the lowest rate on, until it diverges.

    Raises
    ------
    InputError, RunFailure
        as the run itself.
    """
    factor = (highest / lowest) ** (1 / (steps - 1))
    spec = replace(spec, config=_growing(spec.config, lowest, factor))
    config, trainer = spec.config, spec.config.trainer
    tell(Phase(f"Building {spec.model.timm_name}"))
    session = Session.begin(spec, Dataset.read(spec.dataset_file), Ranks(), tell, Stop())
    model = build_model(config, spec.model, len(session.dataset.classes), session.warn)
    objective = build_objective(session.compute.place(model), spec, len(session.dataset.classes), session.compute)
    learner = Learner(objective, config, session.compute, session.ranks, steps, tell, spec.halvings)
    set_train_mode(model, config)
    rates, losses, pace = list[float](), list[float](), Pace(steps * trainer.batch_size)
    for epoch in itertools.count():
        stream = epoch_batches(session, epoch)
        with closing(stream):
            for step, batch in enumerate(stream):
                rates.append(lowest * factor ** len(rates))
                generator = draws(config.seed, epoch, step)
                losses.append(train_step(learner, batch.images, batch.labels, generator, session).item())
                curve, done = Curve(rates, losses), len(losses)
                smoothed = curve.smoothed
                if not math.isfinite(losses[-1]):
                    return Curve(rates[:-1], losses[:-1])
                if done == steps or smoothed[-1] > DIVERGED * min(smoothed):
                    return curve
                tell(Step(1, 1, done, steps, smoothed[-1], *pace.at(done * trainer.batch_size)))
    raise AssertionError("counting ends")


def _growing(config: Config, lowest: float, factor: float) -> Config:
    """The run's config with a rate that grows by ``factor`` each step; the classifier's stays as many times larger."""
    optimizer, trainer = config.optimizer, replace(config.trainer, ema_decay=None)
    head = optimizer.head_lr and lowest * optimizer.head_lr / optimizer.lr
    exponential = SchedulerConfig(
        name="ExponentialLR", _target_="torch.optim.lr_scheduler.ExponentialLR", arguments={"gamma": factor}
    )
    optimizer = replace(optimizer, lr=lowest, head_lr=head)
    return replace(config, optimizer=optimizer, scheduler=exponential, trainer=trainer)
