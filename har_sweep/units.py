"""Numbers with their units, as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float | None) -> str:
    """``75.2`` -> ``1:15``; hours where there are any."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantity(value: float | None, units: Sequence[str] = ("", "k", "M", "G", "T"), base: float = 1000) -> str:
    """Three digits and the unit that keeps them short: ``11184207`` -> ``11.2 M``."""
    if value is None:
        return "-"
    step = 0
    while abs(value) >= base - 0.5 and step < len(units) - 1:
        value, step = value / base, step + 1
    digits = f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return f"{digits} {units[step]}".strip()


def byte_size(count: float | None) -> str:
    """Bytes in binary units: ``1.19 GiB``."""
    return quantity(count, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)
