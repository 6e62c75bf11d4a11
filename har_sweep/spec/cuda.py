"""Whether the torch that is installed can use an NVIDIA card, told without importing torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# The oldest driver for each CUDA, whatever its minor version (NVIDIA, "CUDA Compatibility").
DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}
OLD_CARDS = "5.0 to 9.0"  # what torch has kernels for in its builds for CUDA 12.6, which end with torch 2.14


@dataclass(frozen=True)
class Build:
    """A torch as it was built: its ``version``, and the ``cuda`` it is for: empty without one, None if not known."""

    version: str
    cuda: str | None

    @property
    def cuda_major(self) -> int:
        return int(self.cuda.split(".")[0]) if self.cuda else 0

    @property
    def for_older(self) -> str:
        """What to install for cards and drivers that this build is too new for."""
        number = self.version.partition("+")[0]
        return f"`pip install torch=={number} torchvision --index-url https://download.pytorch.org/whl/cu126`"


@cache
def torch_build() -> Build:
    """That which would be imported."""
    found = find_spec("torch")
    file = Path(found.origin).parent / "version.py" if found and found.origin else Path()
    text = file.read_text() if file.is_file() else ""
    told: dict[str, str] = dict(re.findall(r"^(__version__|cuda)\b[^=]*= *['\"]?([\w.+]*)", text, re.MULTILINE))
    return Build(told.get("__version__", ""), told["cuda"].replace("None", "") if "cuda" in told else None)


def refused_by_driver(build: Build, driver: str, driver_cuda: tuple[int, int]) -> tuple[str, str] | None:
    """What is wrong, and what to do, where a build and a driver do not go together; None if they do.

    ``driver_cuda`` is the newest CUDA that the driver knows. Of one major version, all go with it.
    """
    if build.cuda == "":
        return (
            f"torch {build.version} was built without CUDA, and cannot use this machine's GPU.",
            "Install a torch with CUDA (https://pytorch.org/get-started/locally), or take hardware=cpu.",
        )
    if driver_cuda[0] >= build.cuda_major:
        return None
    needed, older = DRIVERS.get(build.cuda_major, "one for it"), ""
    if driver_cuda[0] == 12:
        older = f", or a torch for CUDA 12.6: {build.for_older}"
    return (
        f"The NVIDIA driver {driver} is too old for torch {build.version}: it knows CUDA "
        f"{driver_cuda[0]}.{driver_cuda[1]}, and CUDA {build.cuda} is needed.",
        f"Install driver {needed} or newer{older}. Or take hardware=cpu.",
    )


def refused_by_kernels(
    name: str, capability: tuple[int, int], architectures: Collection[str], build: Build
) -> tuple[str, str] | None:
    """What is wrong, and what to do, where a build has no kernels for a card; None if it has.

    ``architectures`` are as ``torch.cuda.get_arch_list`` names them. A kernel runs on its own capability and on later
    minor ones; one in PTX (``compute_``) on all later ones.
    """
    kernels = [(kind, int(number) // 10, int(number) % 10) for kind, number in _named(architectures)]
    if not kernels or any(
        (major, minor) <= capability and (kind == "compute" or major == capability[0]) for kind, major, minor in kernels
    ):
        return None
    there = sorted({(major, minor) for _, major, minor in kernels})
    listed = ", ".join(f"{major}.{minor}" for major, minor in there)
    mended = "Install a newer torch"
    if capability < there[0]:
        mended = f"Install a torch for CUDA 12.6, which has them for {OLD_CARDS}: {build.for_older}"
        mended += f" (driver {DRIVERS[12]} or newer)"
    return (
        f"{name} has compute capability {capability[0]}.{capability[1]}, for which torch {build.version} has no "
        f"kernels; it has them for {listed}.",
        f"{mended}. Or take hardware=cpu.",
    )


def _named(architectures: Collection[str]) -> list[tuple[str, str]]:
    """Kind and number of each, without the letter of those that are for a family of cards."""
    matches = (re.fullmatch(r"(sm|compute)_(\d+)[a-z]?", architecture) for architecture in architectures)
    return [(match[1], match[2]) for match in matches if match]
