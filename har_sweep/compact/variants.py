"""What variants there are, which of them a device profits from, and what each needs; without torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal

from har_sweep.errors import InputError, nearest
from har_sweep.record.record import Record
from har_sweep.spec.hardware import Device

Runtime = Literal["torch", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Variant:
    """A way to make a network smaller or faster. ``error_bound`` is how far its logits may be from the network's own
    in float32: the norm of their difference as a share of the norm of what tells the classes apart.

    ``accelerated`` says whether a device has instructions for its ``precision``; ``packages`` are what it needs.
    """

    name: str
    precision: str
    runtime: Runtime = "torch"
    packages: tuple[str, ...] = ()
    error_bound: float = 1e-3
    accelerated: Callable[[Device], bool] = field(default=lambda device: True)

    def unaccelerated(self, device: Device) -> str:
        """The precision, if the device has no instructions for it, else empty."""
        return "" if self.accelerated(device) else self.precision


_ONNX = ("onnx", "onnxscript", "onnxruntime")
_OPENVINO = (*_ONNX, "openvino")
# Sound 16-bit networks are within 0.1 (an EfficientNet-Lite0), sound int8 ones within 0.3; broken ones have about 1.
_HALF = Variant("", "", error_bound=0.2)
_INT8 = Variant("", "int8", "onnxruntime", _ONNX, 0.5, lambda device: device.int8)

VARIANTS = {
    variant.name: variant
    for variant in (
        replace(_HALF, name="bf16", precision="bf16", accelerated=lambda device: device.bf16),
        replace(_HALF, name="fp16", precision="fp16", accelerated=lambda device: device.fp16 or device.kind == "mps"),
        Variant("compiled", "fp32"),
        Variant("onnx", "fp32", "onnxruntime", _ONNX),
        replace(_INT8, name="int8_dynamic"),
        replace(_INT8, name="int8_static"),
        Variant("openvino", "fp32", "openvino", _OPENVINO),
        replace(_INT8, name="openvino_int8", runtime="openvino", packages=_OPENVINO),
    )
}
"""By name; docs/compact.md says what each is."""


def usual_variants(record: Record, device: Device) -> list[str]:
    """What the device profits from, for a run's model: whole products in int8 go well with attention, while
    convolutions want the scales of their activations beforehand."""
    if device.kind != "cpu":
        compiles = all(map(shutil.which, ("cc", "c++")))
        return ["bf16" if device.bf16 else "fp16", *(["compiled"] if compiles else [])]
    cost = record.cost
    attends = cost.macs is not None and cost.macs != cost.macs_without_attention_products
    names = ["onnx", "int8_dynamic" if attends else "int8_static", "bf16"]
    if find_spec("openvino"):
        names += ["openvino", "openvino_int8"]
    return [name for name in names if VARIANTS[name].accelerated(device) and record.hardware.precision != name]


def chosen_variants(given: str | None, record: Record, device: Device) -> list[Variant]:
    """The variants to make of a run: those that are named, separated by commas, or the usual ones.

    Raises
    ------
    InputError
        for a name that there is not, and for what cannot be made or run here.
    """
    if given is None:
        names = usual_variants(record, device)
    elif given == "all":
        names = [name for name, variant in VARIANTS.items() if not refused(variant, device)]
    else:
        names = [name.strip() for name in given.strip("[]").split(",")]
    for name in names:
        if name not in VARIANTS:
            raise InputError(
                f"There is no variant '{name}'.", f"{nearest(name, VARIANTS)} There are: {', '.join(VARIANTS)}."
            )
    variants = [VARIANTS[name] for name in dict.fromkeys(names)]
    for variant in variants:
        if why := refused(variant, device):
            raise why
    return variants


def refused(variant: Variant, device: Device) -> InputError | None:
    """Why a variant cannot be had: its packages are missing, or its runtime does not compute on the device."""
    missing = [package for package in variant.packages if find_spec(package) is None]
    if missing:
        extra = "compact,openvino" if variant.runtime == "openvino" else "compact"
        return InputError(
            f"{variant.name} needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed.",
            f"pip install 'har_sweep[{extra}]', or leave it out of variants=.",
        )
    if device.kind != "cpu" and (variant.precision == "int8" or variant.runtime == "openvino"):
        return InputError(
            f"{variant.name} computes on a processor, and the run was measured on {device.name}.",
            "Leave it out, or compute the run with hardware=cpu: only what ran on one device can be compared.",
        )
    if device.kind == "mps" and variant.runtime != "torch":
        return InputError(f"{variant.name} does not compute on {device.name}.", "Leave it out of variants=.")
    if variant.name == "compiled" and not shutil.which("c++"):  # its answers are looked at on the processor first
        return InputError(
            "compiled needs a C++ compiler, and there is no 'c++'.", "Install one, or leave it out of variants=."
        )
    return None
