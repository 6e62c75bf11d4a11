"""Ways to compute a training, compared by gradients of random images: whether they agree, and how fast they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from har_sweep.device.compute import Compute
from har_sweep.device.graph import StepGraph
from har_sweep.errors import first_line
from har_sweep.launch.stopwatch import undisturbed
from har_sweep.spec.precision import FEW_ROUNDS, Figures, Way

HOPELESS = 2.0  # times as slow as fp32: it gets no more ...
FIRST_SECONDS = 1.0  # ... with so much for making kernels; elsewhere than on a CPU it may be long
BEHIND = 1.25  # times as slow as the best of its precision: it gets no more
GRADIENT, GRADIENT_OF_OTHERS = 3.0, 2.0  # times as long as fp32's forward pass
CHECK = 0.4  # of the time, for the gradients that are compared
GROWTH = 1.5  # times as many images, for another size to be worth its warm-up
LEAST_SHARE = 0.25  # of the time that an image takes, for one more
ROUNDS = FEW_ROUNDS + 1  # of a larger size, as the first of them makes its kernels
ROOM = 4  # times the images that were checked: with time for turns of so many, all ways take them
WHOLE_TURNS = 6  # of gradients: as long as four of whole steps, to warm up and three that count
LATE = 0.5  # seconds, for the only turn, since what it takes is told from above
MOST_ROUNDS = 30
LOSS_SCALE = 1024.0  # for fp16's small gradients


@dataclass(frozen=True)
class Gradients:
    """Of a model in each of several ways, the first of which is what the others are compared with. ``left()`` tells how
    many seconds are left for it, and ``most`` is how many images a batch has."""

    model: nn.Module
    computes: Mapping[Way, Compute]
    input_size: int
    most: int
    left: Callable[[], float]

    def checked(self) -> tuple[dict[Way, Figures], int]:
        """Of each way, how far the loss and the gradient of the same images are from the first way's, or its error; and
        of how many images. Of a precision that was computed in one way, nothing more where no time is left for it.

        As in evaluation, without batch statistics and random draws: with two images batch normalisation multiplies the
        smallest difference until even sound gradients have nothing in common.
        """
        on_cpu = next(iter(self.computes.values())).device.type == "cpu"
        count = self._few() if on_cpu else min(2, self.most)
        images, found = _inputs(count, self.input_size), dict[Way, Figures]()
        first: tuple[float, list[Tensor]] | None = None
        for way, compute in self.computes.items():
            if self.left() <= 0 and any(way.precision == known.precision for known in found):
                found[way] = Figures(way)
                continue
            try:
                with undisturbed(compute.device) as watch:
                    loss, gradient = gradient_of(self.model, compute, images)
            except RuntimeError as e:
                if first is None:
                    raise
                found[way] = Figures(way, error=first_line(e))
                continue
            if first is None:
                first, first_seconds = (loss, gradient), watch.seconds
                patience = FIRST_SECONDS + HOPELESS * first_seconds if on_cpu else math.inf
            difference = abs(loss - first[0]) / max(first[0], 1e-3)
            found[way] = Figures(way, (watch.seconds / count,), difference, cosine(first[1], gradient))
            del gradient  # its memory serves the next way
            if not math.isfinite(difference):
                found[way] = Figures(way, error="its loss is no number")
            elif watch.seconds > patience:
                error = f"its first step took {watch.seconds:.1f} s, fp32's {first_seconds:.1f} s"
                found[way] = Figures(way, error=error)
        return found, count

    def _few(self) -> int:
        """Two images; but one, where that leaves time for a turn of two, and two would not for one of four."""
        if self.most < 2:
            return self.most
        forward = self._forward(2)
        all_ways = forward * (GRADIENT + (len(self.computes) - 1) * GRADIENT_OF_OTHERS)
        turn = forward * (GRADIENT + GRADIENT_OF_OTHERS)
        return 1 if all_ways > CHECK * self.left() and all_ways / 2 + turn < self.left() + LATE else 2

    def turns(self, checked: Mapping[Way, Figures], few: int) -> Turns | None:
        """As many turns as there is time for, of more images than the ``few`` that were checked; nothing where there is
        time for whole steps of a batch.

        Ways far behind the best of their precision have no turn. Without time for turns of ``ROOM`` times the few, it
        is the first way of each precision alone.
        """
        of_few = {way: few * found.training_seconds[0] for way, found in checked.items() if found.training_seconds}
        if FEW_ROUNDS * sum(of_few.values()) < self.left():  # kernels were made in the first
            again, _ = self._turn(list(of_few), few)
            of_few = {way: min(seconds, again[way]) for way, seconds in of_few.items()}
        reference = next(iter(of_few))
        best = {way.precision: min(of_few[o] for o in of_few if o.precision == way.precision) for way in of_few}
        ways = [w for w in of_few if of_few[w] <= min(HOPELESS * of_few[reference], BEHIND * best[w.precision])]
        hurried = FEW_ROUNDS * ROOM * sum(of_few[way] for way in ways) > self.left()
        if hurried:
            ways = [way for n, way in enumerate(ways) if way.precision not in {o.precision for o in ways[:n]}]
        of_least, rounds = sum(of_few[way] for way in ways), list[dict[Way, float]]()
        count, took = min(2 * few, self.most), 2 * of_least
        while took < self.left() + (0 if rounds else LATE) and len(rounds) < MOST_ROUNDS:
            found, took = self._turn(ways[:: -1 if len(rounds) % 2 else 1], count)
            rounds.append(found)
            one_more = _one_more((count, took), (few, of_least), LEAST_SHARE)
            if len(rounds) > 1:
                continue
            if not hurried and WHOLE_TURNS * (took + one_more * (self.most - count)) < self.left():
                return None
            larger = min(self.most, 2 * count, int(count + (self.left() / ROUNDS - took) / one_more))
            if larger >= GROWTH * count:
                rounds, took, count = [], took + one_more * (larger - count), larger
        return Turns(few, of_few, count if rounds else few, rounds, self.most)

    def _turn(self, ways: Sequence[Way], count: int) -> tuple[dict[Way, float], float]:
        """Seconds of each way's gradient of so many images, and how much time they all took."""
        images, before, found = _inputs(count, self.input_size), self.left(), dict[Way, float]()
        for way in ways:
            compute = self.computes[way]
            with undisturbed(compute.device) as watch:
                gradient_of(self.model, compute, images)
            found[way] = watch.seconds
        return found, before - self.left()

    def _forward(self, count: int) -> float:
        compute = next(iter(self.computes.values()))
        images = compute.move(_inputs(count, self.input_size)).contiguous(memory_format=compute.memory_format)
        self.model.eval()
        with undisturbed(compute.device) as watch, torch.no_grad():
            self.model(images)
        return watch.seconds


@dataclass(frozen=True)
class Turns:
    """Seconds of each way's gradients: of ``few`` images, and in ``rounds`` of ``count`` images."""

    few: int
    of_few: Mapping[Way, float]
    count: int
    rounds: Sequence[Mapping[Way, float]]
    most: int

    def seconds_an_image(self, foretold: bool) -> dict[Way, tuple[float, ...]]:
        """Of each way, one a round; or ``foretold`` for batches of ``most`` by both sizes. With few images a large
        model does little but read its weights, which bf16 does twice."""
        if not self.rounds:
            return {way: (seconds / self.few,) for way, seconds in self.of_few.items()}
        images = self.most if foretold else self.count

        def each(way: Way) -> tuple[float, ...]:
            smaller = self.few, self.of_few[way]
            return tuple(
                of_more(images, (self.count, found[way]), smaller, LEAST_SHARE) / images for found in self.rounds
            )

        found = {way: each(way) for way in self.rounds[0]}
        reference = next(iter(self.of_few))
        by = median(found[reference]) / self.of_few[reference]
        return {way: found.get(way, (by * seconds,)) for way, seconds in self.of_few.items()}


def of_more(most: int, larger: tuple[int, float], smaller: tuple[int, float], least_share: float) -> float:
    """Seconds that ``most`` images take, on the straight line through two sizes with their seconds: what is done
    whatever the size, such as reading weights, is shared by more. An image more takes ``least_share`` of the larger
    size's mean at least."""
    (count, seconds), (few, _) = larger, smaller
    if not few < count < most:
        return seconds * most / count
    return seconds + (most - count) * min(_one_more(larger, smaller, least_share), seconds / count)


def _one_more(larger: tuple[int, float], smaller: tuple[int, float], least_share: float) -> float:
    (count, seconds), (few, seconds_of_few) = larger, smaller
    return max((seconds - seconds_of_few) / max(count - few, 1), least_share * seconds / count)


@lru_cache(maxsize=1)
def _inputs(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def gradient_of(model: nn.Module, compute: Compute, images: Tensor) -> tuple[float, list[Tensor]]:
    """The loss of images that are all of the first class, and its gradient by all weights that are trained."""
    inputs = compute.move(images).contiguous(memory_format=compute.memory_format)
    labels = torch.zeros(len(images), dtype=torch.int64, device=compute.device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    scale = LOSS_SCALE if compute.precision == "fp16" else 1.0

    def backward(inputs: Tensor, labels: Tensor) -> Tensor:
        model.train().eval()  # some keep in evaluation what their weights make, for one backward pass (TinyViT)
        with compute.autocast():
            loss = F.cross_entropy(model(inputs), labels)
        (loss * scale).backward()
        return loss.detach()

    step: Callable[[Tensor, Tensor], Tensor] = backward
    if compute.graph:
        backward(inputs, labels)  # in which kernels are chosen
        model.zero_grad(set_to_none=True)
        step = StepGraph(backward, weights, inputs, labels)
    loss = step(inputs, labels)
    gradient = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    model.zero_grad(set_to_none=True)
    return loss.item(), [each / scale for each in gradient] if scale != 1 else gradient


def cosine(one: list[Tensor], another: list[Tensor]) -> float:
    """Of the angle between two gradients; 0 where it is no number."""

    def product(a: list[Tensor], b: list[Tensor]) -> float:
        return sum(torch.dot(x.flatten(), y.flatten()).item() for x, y in zip(a, b, strict=True))

    if one is another:
        return 1.0
    norms = product(one, one) * product(another, another)
    found = product(one, another) / math.sqrt(norms) if norms else 1.0
    return found if math.isfinite(found) else 0.0
