"""Numbers with their units, and texts from anywhere, as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters but tab and newline, those that turn the direction of text, other ends of lines, lone surrogates.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What a spreadsheet runs: a sign after any blanks, full-width ones too. A tab or an end of line may begin another cell.
_FORMULA = re.compile(r"[\s\u200b\ufeff]*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def escaped(text: str) -> str:
    """``text`` with all that a terminal would obey instead of showing it written as an escape, such as ``\\x1b``."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def no_formula(text: str) -> str:
    """``text`` as a cell of a CSV: what a spreadsheet would compute has an apostrophe before it."""
    if text == "-" or _NUMBER.fullmatch(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # a return alone is not quoted, and would begin a row
    return f"'{text}" if _FORMULA.match(text) else text


def duration(seconds: float | None) -> str:
    """``75.2`` -> ``1:15``; hours where there are any."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def device_time(hours: float) -> str:
    """An estimate's two digits, in the unit that people would take: ``0.0031`` -> ``about 11 device seconds``."""
    if not hours:
        return "no device time"
    for unit, of_an_hour in (("hour", 1), ("minute", 60), ("second", 3600)):
        if hours * of_an_hour >= 1:
            count = float(f"{hours * of_an_hour:.2g}")
            return f"about {count:,g} device {unit}{'s' if count != 1 else ''}"
    return "less than a device second"


def money(amount: float) -> str:
    """In whatever currency the price was given."""
    return "less than 0.01 in money" if 0 < amount < 0.01 else f"{amount:,.2f} in money"


def quantity(value: float | None, units: Sequence[str] = ("", "k", "M", "G", "T"), base: float = 1000) -> str:
    """Three digits and the unit that keeps them short: ``11184207`` -> ``11.2 M``."""
    if value is None:
        return "-"
    step = 0
    while abs(value) >= base - 0.5 and step < len(units) - 1:
        value, step = value / base, step + 1
    return f"{digits(value)} {units[step]}".strip()


def digits(value: float) -> str:
    """The first three, and all that there are before the point: ``11184``, ``23.9``."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def byte_size(count: float | None) -> str:
    """Bytes in binary units: ``1.19 GiB``."""
    return quantity(count, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)
