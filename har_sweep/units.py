"""Numbers with their units, as people read them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """``75.2`` -> ``1:15``; hours where there are any."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantity(value: float | None, units: tuple[str, ...] = ("", "k", "M", "G", "T"), base: float = 1000) -> str:
    """Three digits and a prefix: ``11184207`` -> ``11.2 M``."""
    if value is None:
        return "-"
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}".strip()
        value /= base
    return f"{value:.3g} {units[-1]}"


def byte_size(count: float | None) -> str:
    """Bytes in binary units: ``1223 MiB``."""
    return quantity(count, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)
