"""What a planner asks torch, in a process of its own: a model's MACs, how fast this machine trains it, each way, and
for which cards there are kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache, partial
from statistics import median

import torch
from torch import Tensor, nn

from har_sweep.cost.disturbance import CROWDED, Disturbance, Meter, Place
from har_sweep.cost.inference import thoroughness
from har_sweep.cost.static import costs_of
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute, keep_freed_memory, prepare_compute
from har_sweep.device.crew import Link
from har_sweep.device.ranks import Ranks, lead
from har_sweep.errors import InputError, RunFailure
from har_sweep.events import tell_nobody
from har_sweep.launch.gradients import GROWTH, HOPELESS, MOST_ROUNDS, Gradients, of_more
from har_sweep.launch.stopwatch import PATIENCE, Watch, budget, undisturbed
from har_sweep.model.build import build_model
from har_sweep.model.head import set_train_mode
from har_sweep.spec.precision import Choice, Figures, Measured, Way, best_of, choose
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.augmentation import augment
from har_sweep.train.evaluate import forward_of
from har_sweep.train.learner import Learner
from har_sweep.train.objective import Objective, build_objective

EVALUATION_SHARE = 0.1  # of the time
LEAST_SHARE = 0.5  # of the time that an image takes in a step, for one more
LEAST_SECONDS = 0.02  # that are timed at once: several steps of a fast device
MOST_IN_ONE = 2**28  # numbers, 1 GiB: what two images need at once grows less than a model's weights
CLASSES = 10
WARM_UP_STEPS = 3


def count_macs(spec: RunSpec) -> int:
    """Multiply-adds of one image in a run's model."""
    classes = len(Dataset.read(spec.dataset_file).classes)
    counted = costs_of(spec, _untrained(spec, classes), classes)
    if counted.macs is None:
        raise ValueError(counted.not_counted)
    return counted.macs


def refusal(spec: RunSpec) -> tuple[str, str] | None:
    """Why a run's model cannot be built from its weights, and what to do; None if it can be."""
    try:
        build_model(spec.config, spec.model, CLASSES, lambda text: None)
    except (InputError, RunFailure) as e:
        return str(e), e.hint
    return None


def teacher_refusal(spec: RunSpec) -> tuple[str, str] | None:
    """Why a run's teacher cannot teach its model, and what to do; None if it can, as two black images show."""
    classes, size = len(Dataset.read(spec.dataset_file).classes), spec.model.input_size
    compute = Compute(torch.device("cpu"), "fp32", torch.contiguous_format)
    try:
        objective = build_objective(_untrained(spec, classes), spec, classes, compute)
        objective.loss(objective.trained.train(), torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.int64))
    except (InputError, RunFailure) as e:
        return str(e), e.hint
    return None


def architectures() -> list[str]:
    """What torch has kernels for, as it names them; none if it cannot use a GPU at all."""
    return torch.cuda.get_arch_list()


@contextmanager
def _own_threads() -> Iterator[None]:
    """Inside, a run's number of threads may be set: this process is asked about other runs, too."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_own_threads()
def measure(spec: RunSpec, ways: Sequence[Way], seconds: float, card: int = 0) -> Measured:
    """Train a run's model, untrained and on random pixels, each way in turn for about so many seconds in all, and
    evaluate it the way that ``choose`` takes; on a busy machine it lasts about ``PATIENCE`` times as long at most.
    ``card`` is which of the visible GPUs does it.

    Times are of whole steps (augmentation, gradients and update) of the run's batches. Where a CPU has no time for
    several of them, they are of the gradients by which the ways are compared, of as many images as there is time for.

    Beside others that compute on the same cores threads wait for each other, and what is measured of them may be wrong
    tenfold. One thread's processor time is not, so it is what counts there, as if all threads shared it.
    """
    began = time.monotonic()
    if spec.device == "cuda":  # this process may have been asked about another card before
        torch.cuda.set_device(card)
    compute = prepare_compute(replace(spec, choice=Choice(ways[0])), Ranks())
    threads = torch.get_num_threads()
    meter = Meter(Place(threads))
    model = compute.place(_untrained(spec, CLASSES))
    once_seconds = time.monotonic() - began + thoroughness(compute.device).seconds
    if spec.device == "cpu":  # as in training from the second step on
        keep_freed_memory(compute.device)
        _take_memory(model)
    computes = {
        way: replace(compute, precision=way.precision, own_kernels=way.kernels != "torch", graph=way.graph)
        for way in ways
    }

    def crowded(disturbed: Disturbance) -> bool:
        return spec.device == "cpu" and threads > 1 and (disturbed.share or 0.0) > CROWDED

    timed = partial(_timed, model, computes, spec, seconds, once_seconds)
    disturbed = meter.prospect()
    if not crowded(disturbed):
        measured = timed()
        disturbed = meter.disturbance()
    if crowded(disturbed):
        torch.set_num_threads(1)
        measured = _shared(timed(), threads, f"by one thread's time, as {disturbed.text}")
    return measured


def _take_memory(model: nn.Module) -> None:
    """For two gradients and the weights in another precision, so that no way's first gradient, which is compared with
    another's, waits for its pages: in pieces of their sizes, which fill what building the model left free here and
    there, and in one, for whatever is larger; a machine may take a second to give one of its GB."""
    weights = list(model.parameters())
    pieces = [torch.empty_like(weight).zero_() for _ in range(3) for weight in weights]
    del pieces
    torch.empty(min(3 * sum(weight.numel() for weight in weights), MOST_IN_ONE)).zero_()


def _timed(
    model: nn.Module, computes: Mapping[Way, Compute], spec: RunSpec, seconds: float, once_seconds: float
) -> Measured:
    figures, count = _trained(model, computes, spec, seconds)
    measured = Measured(
        figures=figures,
        evaluation_seconds=0.0,
        once_seconds=once_seconds,
        batch_size=count,
        batch_wanted=spec.device_batch,
        cpu_threads=spec.config.hardware.cpu_threads,
    )
    if len(computes) > 1 and count < spec.device_batch:  # its time went into the choice, for which it is not needed
        return measured
    chosen = computes[choose(measured).way]
    left = budget(EVALUATION_SHARE * seconds, _patience(spec))
    return replace(measured, evaluation_seconds=_evaluated(model, spec, chosen, count, left))


def _shared(measured: Measured, threads: int, disturbed: str) -> Measured:
    """What one thread took, as if so many had shared it."""
    return replace(
        measured,
        figures=tuple(
            replace(each, training_seconds=tuple(s / threads for s in each.training_seconds))
            for each in measured.figures
        ),
        evaluation_seconds=measured.evaluation_seconds / threads,
        disturbed=disturbed,
    )


def _trained(
    model: nn.Module, computes: Mapping[Way, Compute], spec: RunSpec, seconds: float
) -> tuple[tuple[Figures, ...], int]:
    """The figures of each way, and the images of a batch."""
    left, most, on_cpu = budget(seconds), spec.device_batch, spec.device == "cpu"
    checked, count = {way: Figures(way) for way in computes}, min(2, most)
    if len(computes) > 1:
        gradients = Gradients(model, computes, spec.model.input_size, most, left)
        checked, count = gradients.checked()
        if on_cpu:  # a GPU's batches grow in the race
            if turns := gradients.turns(checked, count):
                figures = _figures(checked, turns.seconds_an_image(foretold=False))
                if best_of(figures).way.precision == figures[0].way.precision:  # so it may be with few images alone
                    figures = _figures(checked, turns.seconds_an_image(foretold=True))
                return figures, turns.count
            count = most
    if not on_cpu:  # it has loaded its libraries and chosen kernels so far, which is no part of the race's time
        left = budget(seconds, _patience(spec))
    steps = _steps(model, {way: each for way, each in computes.items() if not checked[way].error}, spec)
    set_train_mode(model, spec.config)
    warm_up = 2 if any(way.graph for way in computes) else 1  # a graph is captured in the second step
    stopwatch = partial(undisturbed, next(iter(computes.values())).device)
    times, count = race(steps, count, most, lambda: left() - EVALUATION_SHARE * seconds, stopwatch, warm_up)
    return _figures(checked, times), count


def _figures(checked: Mapping[Way, Figures], times: Mapping[Way, tuple[float, ...]]) -> tuple[Figures, ...]:
    return tuple(replace(found, training_seconds=times.get(way, ())) for way, found in checked.items())


def _patience(spec: RunSpec) -> float:
    """On a GPU it is the time that passes which counts: the host waits for it."""
    return PATIENCE if spec.device == "cpu" else 1.0


def _steps(model: nn.Module, computes: Mapping[Way, Compute], spec: RunSpec) -> dict[Way, Callable[[int], None]]:
    """A training step of each way, given a number of images; the model and its optimizer are the same for all."""
    learner = _learner(model, spec, next(iter(computes.values())), Ranks())
    return {way: partial(_step, learner.computing(compute), compute, spec) for way, compute in computes.items()}


def _learner(model: nn.Module, spec: RunSpec, compute: Compute, ranks: Ranks) -> Learner:
    config = spec.config
    if ranks.count == 1:  # several would cut their batches differently
        config = replace(config, trainer=replace(config.trainer, on_oom="split"))
    return Learner(Objective(model, config.trainer), config, compute, ranks, 1, tell_nobody, 0)


def _step(learner: Learner, compute: Compute, spec: RunSpec, count: int) -> None:
    plan, generator = spec.model, torch.Generator()
    pixels, labels = _random_images(spec.source_size, count, compute.device.type == "cuda")
    inputs, targets = augment(
        compute.move(pixels), compute.move(labels), spec.config.augmentation, plan.input_size, plan.mean, plan.std,
        generator, CLASSES,
    )  # fmt: skip
    learner.learn(inputs.contiguous(memory_format=compute.memory_format), targets)


@cache
def _random_images(size: int, count: int, pin: bool) -> tuple[Tensor, Tensor]:
    """A batch as training has it: in page-locked memory where that is sent to a GPU."""
    images = torch.randint(256, (1, size, size, 3), dtype=torch.uint8).expand(count, -1, -1, -1)
    labels = torch.randint(CLASSES, (count,))
    return (images.contiguous().pin_memory(), labels.pin_memory()) if pin else (images, labels)


@_own_threads()
def together(spec: RunSpec, seconds: float) -> float:
    """Images a second that all devices of a run train together, or all its processes on a CPU, over about so many
    seconds."""
    count = spec.config.hardware.device_count
    with lead(count, Stop(), partial(_follow, spec, seconds)) as ranks:
        return _together(spec, ranks, seconds)


def _follow(spec: RunSpec, seconds: float, link: Link, stop: Stop) -> None:
    _together(spec, Ranks(link.rank, spec.config.hardware.device_count, link), seconds)
    link.wait_for_end()


def _together(spec: RunSpec, ranks: Ranks, seconds: float) -> float:
    compute, batch = prepare_compute(spec, ranks), spec.config.trainer.batch_size
    model = compute.place(_untrained(spec, CLASSES))
    ranks.join(compute.device)
    learner = _learner(model, spec, compute, ranks)
    set_train_mode(model, spec.config)

    def trained(steps: int) -> float:
        with undisturbed(compute.device) as watch:
            for _ in range(steps):
                _step(learner, compute, spec, batch)
        return watch.seconds

    trained(WARM_UP_STEPS)
    steps = max(1, int(seconds / ranks.gather(trained(1))[0]))
    rate = steps * batch / trained(steps)
    ranks.leave()
    return rate


def _evaluated(model: nn.Module, spec: RunSpec, compute: Compute, count: int, left: Callable[[], float]) -> float:
    """Seconds an image in batches of ``count``."""
    model.eval()
    forward, size = forward_of(model, spec.model, compute), spec.model.input_size
    pixels = torch.randint(256, (1, size, size, 3), dtype=torch.uint8)
    images, way = compute.move(pixels.expand(count, -1, -1, -1)), Way(compute.precision)
    stopwatch = partial(undisturbed, compute.device)
    times, _ = race({way: lambda n: forward(images[:n])}, count, count, left, stopwatch)
    return median(times[way])


def race(
    steps: Mapping[Way, Callable[[int], object]],
    least: int,
    most: int,
    left: Callable[[], float],
    stopwatch: Callable[[], AbstractContextManager[Watch]],
    warm_up: int = 1,
) -> tuple[dict[Way, tuple[float, ...]], int]:
    """Seconds an image of each ``step(images)``, one a round, and the number of images, from ``least`` to ``most``.

    They take turns, so that what comes and goes hits all alike. Of one alone that has no time for ``most``, it is told
    what steps of so many would take. The first ``warm_up`` steps of a size are not counted,
    since a device chooses its kernels in them, unless no time is left for more. Those far behind the first then leave.
    """
    repeats = dict.fromkeys(steps, warm_up)

    def round_of(ways: Sequence[Way], count: int) -> tuple[dict[Way, float], float]:
        """Seconds an image of each, and what it took of the time."""
        found, before = {}, left()
        for way in ways:
            with stopwatch() as watch:
                for _ in range(repeats[way]):
                    steps[way](count)
            found[way] = watch.seconds / repeats[way] / count
        return found, before - left()

    reference, *others = steps
    first, took = round_of([*others, reference], least)
    if took > left():
        return {way: (first[way],) for way in steps}, least
    repeats = dict.fromkeys(steps, 1)
    second, took = round_of(list(steps), least)
    racing = [way for way in steps if second[way] <= HOPELESS * second[reference]]
    took *= sum(second[way] for way in racing) / max(sum(second.values()), 1e-6)
    count, turn = least, {way: second[way] for way in racing}
    # A size costs one round to warm up, and five are for figures that are compared; of one alone two will do, since
    # small batches are slower by more than figures differ. A few images may take as long as many, so that only those
    # of a size tell whether there is time for a larger one.
    rounds_wanted = 6 if len(racing) > 1 else 3
    while (larger := min(most, int(count * left() / (rounds_wanted * max(took, 1e-6))))) >= GROWTH * count:
        count = larger
        repeats = dict.fromkeys(steps, warm_up)
        round_of(racing, count)
        repeats = dict.fromkeys(steps, 1)
        turn, took = round_of(racing, count)
    repeats = {way: max(1, int(LEAST_SECONDS / max(turn[way] * count, 1e-6))) for way in racing}
    rounds = [turn]
    while took < left() and len(rounds) < MOST_ROUNDS:
        turn, took = round_of(racing if len(rounds) % 2 else racing[::-1], count)
        rounds.append(turn)
    if len(racing) == 1 and least < count < most:
        smaller = least, least * second[reference]
        rounds = [
            {way: of_more(most, (count, count * each[way]), smaller, LEAST_SHARE) / most for way in racing}
            for each in rounds
        ]
    gone = {way: (second[way],) for way in steps if way not in racing}
    return gone | {way: tuple(each[way] for each in rounds) for way in racing}, count


def _untrained(spec: RunSpec, classes: int) -> nn.Module:
    """The run's model without its weights, which need not be here."""
    scratch = replace(spec.model, weights="scratch", weights_file=None)
    return build_model(spec.config, scratch, classes, lambda text: None)
