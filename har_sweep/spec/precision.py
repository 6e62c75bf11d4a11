"""Which precision a run computes in, and by whose kernels: chosen by how fast each trained on the run's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from har_sweep.spec.hardware import Device, cpu_device
from har_sweep.units import digits

MARGIN = 1.1  # times as fast as fp32, for anything else to be worth it
MARGIN_OF_FEW, FEW_ROUNDS = 1.5, 3  # where a model is so slow that there were fewer rounds
WITHIN_MARGIN = 1.03  # for another way to compute the same precision
LOSS_BOUND = 0.05  # as a share of fp32's loss
GRADIENT_BOUND = 0.8  # the least cosine


@dataclass(frozen=True)
class Way:
    """A way to compute a training: ``kernels`` are ``torch``'s or ``har_sweep``'s (``device/cpu_kernels.py``), and as a
    ``graph`` a CUDA device repeats a whole batch's step by itself (``device/graph.py``)."""

    precision: str
    kernels: str = "torch"
    graph: bool = False

    @property
    def key(self) -> str:
        """Its name in files."""
        kernels = "" if self.kernels == "torch" else f"_{self.kernels}"
        return f"{self.precision}{kernels}{'_graph' if self.graph else ''}"

    def __str__(self) -> str:
        kernels = "" if self.kernels == "torch" else " by our kernels"
        return f"{self.precision}{kernels}{' as a CUDA graph' if self.graph else ''}"


@dataclass(frozen=True)
class Figures:
    """What was measured of a way: seconds an image in training, one a round in which all took turns, so that rounds
    can be compared one by one; and a step's loss and gradient beside fp32's, from the same weights and images.
    ``error`` says why there is nothing."""

    way: Way
    training_seconds: tuple[float, ...] = ()
    loss_difference: float = 0.0
    gradient_cosine: float = 1.0
    error: str = ""

    @property
    def images_per_second(self) -> float | None:
        return 1 / median(self.training_seconds) if self.training_seconds else None


@dataclass(frozen=True)
class Measured:
    """A model on a device, in batches of ``batch_size``, as large as there was time for up to the ``batch_wanted``,
    with ``cpu_threads`` (None: all). ``evaluation_seconds`` an image are of the way that ``choose`` takes;
    ``once_seconds`` go into opening the device, building the model and measuring how it answers.
    ``disturbed`` says who else computed on the same device, and what was measured instead; or it is empty."""

    figures: tuple[Figures, ...]
    evaluation_seconds: float
    once_seconds: float
    batch_size: int
    batch_wanted: int
    cpu_threads: int | None = None
    disturbed: str = ""


@dataclass(frozen=True)
class Choice:
    """A run's way, why it was taken (empty where there was nothing to choose), and what was measured, if it was."""

    way: Way
    why: str = ""
    measured: Measured | None = None

    @property
    def images_per_second(self) -> dict[str, float]:
        """Of each way that was measured."""
        figures = self.measured.figures if self.measured else ()
        return {f.way.key: rate for f in figures if (rate := f.images_per_second)}


def ways(device: Device, compiled: bool = False, graph: bool | None = False) -> tuple[Way, ...]:
    """What could be the fastest on a device, fp32 first; it alone where nothing else is computed in hardware. None for
    ``graph`` is with and without."""
    lower = "bf16" if device.bf16 else "fp16" if device.fp16 else None
    if lower and device.kind == "cpu" and not compiled:
        return Way("fp32"), Way("bf16", "har_sweep"), Way("bf16")
    return in_graphs(tuple(map(Way, filter(None, ("fp32", lower)))), graph)


def in_graphs(ways: tuple[Way, ...], graph: bool | None) -> tuple[Way, ...]:
    """The same ways as CUDA graphs or not, or (None) both, those after the ones that choose the device's kernels."""
    if graph is None:
        return in_graphs(ways, False) + in_graphs(ways, True)
    return tuple(replace(way, graph=graph) for way in ways)


def named(precision: str, device: str = "cpu") -> Choice:
    """What the user named: nothing is measured, and bf16 on a CPU is computed by our kernels."""
    return Choice(Way(precision, "har_sweep" if (precision, device) == ("bf16", "cpu") else "torch"))


def lacks_bf16(device: str, precision: str) -> bool:
    """Whether a run computes in bf16, as its user named it, on a processor that has no instructions for it."""
    return (device, precision) == ("cpu", "bf16") and not cpu_device().bf16


def choose(measured: Measured) -> Choice:
    """The fastest way that computes what the first does, in its precision (fp32, unless one was named) unless another
    is clearly faster.

    Clearly: ``MARGIN`` times as fast as fp32 (``MARGIN_OF_FEW`` with fewer than ``FEW_ROUNDS`` rounds), both in three
    rounds of four and by the fastest rounds of either. A narrower lead is worth less than that the choice stays what it
    is from one measurement to the next: precision is part of what a run is. Kernels and graphs are not; of those of a
    precision the first stays unless another is ``WITHIN_MARGIN`` times as fast.

    What fp32 does: the loss of one step differs by no more than ``LOSS_BOUND`` of it, and the gradients point the same
    way, with a cosine of ``GRADIENT_BOUND`` at least. Sound bf16 had 0.92 to 0.9999 in ResNet-18, ViT-Ti, MobileNetV4
    and EfficientNet-Lite0, the last with the least; kernels that are wrong, and fp16 that overflows, have about 0.
    """
    best = best_of(measured.figures)
    why = _why(best, [f for f in measured.figures if f is not best])
    return Choice(best.way, why + (measured.disturbed and f"; {measured.disturbed}"), measured)


def best_of(figures: Sequence[Figures]) -> Figures:
    """Of the way that ``choose`` takes."""
    first, *others = figures
    lead, sound = partial(_lead, first), [f for f in others if not _spoils(f)]
    reference = _preferred([first, *(f for f in sound if f.way.precision == first.way.precision)], lead)
    clear = [f for f in sound if f.way.precision != first.way.precision and _is_clear(reference, f)]
    return _preferred(clear, lead) if clear else reference


def _preferred(figures: list[Figures], lead: Callable[[Figures], float]) -> Figures:
    """Of ways to compute one precision."""
    fastest = max(figures, key=lead)
    return fastest if lead(fastest) >= WITHIN_MARGIN * lead(figures[0]) else figures[0]


def _ratios(reference: Figures, other: Figures) -> list[float]:
    return [slow / fast for slow, fast in zip(reference.training_seconds, other.training_seconds, strict=False)]


def _lead(reference: Figures, other: Figures) -> float:
    """How many times as fast as the reference."""
    ratios = _ratios(reference, other)
    return median(ratios) if ratios else 0.0


def _is_clear(reference: Figures, other: Figures) -> bool:
    ratios = sorted(_ratios(reference, other))
    if not ratios:
        return False
    margin = MARGIN if len(ratios) >= FEW_ROUNDS else MARGIN_OF_FEW
    best_to_best = min(reference.training_seconds) / min(other.training_seconds)
    return min(best_to_best, ratios[len(ratios) // 4]) >= margin


def _spoils(figures: Figures) -> str:
    """Why a way does not compute what fp32 does; empty if it does."""
    if figures.error:
        return figures.error
    if not figures.loss_difference <= LOSS_BOUND:
        return f"its loss is {100 * figures.loss_difference:.2g} % off"
    if not figures.gradient_cosine >= GRADIENT_BOUND:
        return f"its gradient has a cosine of {figures.gradient_cosine:.2f} with fp32's"
    return ""


def _why(best: Figures, others: list[Figures]) -> str:
    """``fastest here: 23.9 images/s against 14.9 in bf16``, and what was no choice."""
    rate = best.images_per_second or 0.0
    beaten = {str(f.way): f.images_per_second for f in others if f.images_per_second and not _spoils(f)}
    said = []
    if beaten:
        fastest, rounds = max(beaten.values()), len(best.training_seconds)
        if rate >= fastest:
            rank = "fastest here"
        elif fastest < MARGIN * rate:
            rank = "no other is clearly faster here"
        elif rounds < FEW_ROUNDS:
            rank = f"no other is faster by enough to tell in {rounds} round{'s' if rounds > 1 else ''}"
        else:
            rank = "no other is faster in enough of the rounds"
        said.append(
            f"{rank}: {digits(rate)} images/s against "
            + ", ".join(f"{digits(n)} in {way}" for way, n in beaten.items())
        )
    said += [f"{f.way} is no choice: {why}" for f in others if (why := _spoils(f))]
    return "; ".join(said)
