"""Are Python and the packages those that this was tested with?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator

from har_sweep.doctor.finding import NOTE, OK, PROBLEM, Check
from har_sweep.files import PACKAGE

SHOWN_PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "wandb")
REINSTALL = (
    "`make doctor` installs what requirements.lock pins into .venv; in a conda environment it is "
    "`conda env update -f environment.yml`."
)


def python() -> Check:
    """This interpreter."""
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 11):  # noqa: UP036, for a folder put into another Python's path
        return Check("Python", PROBLEM, version, "har_sweep needs 3.11 or later: make PYTHON=python3.11 doctor")
    return Check("Python", OK, version)


def packages() -> Iterator[Check]:
    """What a sweep needs, as installed, against requirements.lock."""
    try:
        distribution = importlib.metadata.distribution("har_sweep")
        needed, pins = _needed("har_sweep"), _pins(distribution)
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", PROBLEM, f"har_sweep is not installed in {sys.executable}", REINSTALL)
        return
    except ImportError as e:
        yield Check("packages", PROBLEM, str(e), REINSTALL)
        return
    missing = sorted(name for name, version in needed.items() if version is None)
    different = sorted(
        f"{name} {version} (lock: {pins.get(name, 'none')})"
        for name, version in needed.items()
        if version and version != pins.get(name)
    )
    if missing:
        yield Check("packages", PROBLEM, f"not installed: {', '.join(missing)}", REINSTALL)
    if different:
        yield Check("packages", NOTE, f"not as locked: {', '.join(different)}", REINSTALL)
    if not missing and not different:
        shown = ", ".join(f"{name} {needed[name]}" for name in SHOWN_PACKAGES)
        yield Check("packages", OK, f"all {len(needed)} as locked: {shown}")


def _needed(root: str) -> dict[str, str | None]:
    """Everything that ``root`` needs, directly or not, with the installed version or None."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str | None] = {}
    seen, queue = set[tuple[str, str]](), [(root, "")]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            continue
        if name != root:
            found[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return found


def _pins(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """The lock's versions for this Python and platform: the checkout's lock, or the one that came with the wheel."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = PACKAGE.parent / "requirements.lock"
    text = lock.read_text() if lock.exists() else distribution.read_text("extra_metadata/requirements.lock") or ""
    pinned = [Requirement(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in pinned
        if r.marker is None or r.marker.evaluate()
    }
