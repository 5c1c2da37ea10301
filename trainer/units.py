"""Numbers as a person reads them."""

from __future__ import annotations

import math
from datetime import timedelta


def count(value: float, space: str = "") -> str:
    """A number in three digits: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{_digits(value / limit)}{space}{unit}"
    return f"{_digits(value)}{space}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def size(number: int) -> str:
    """Bytes in binary units: 512 MiB, 1.25 GiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:05."""
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "?"


def share(part: float, whole: float) -> str:
    """Percent with one decimal; a dash where there is nothing to have a share of."""
    return f"{part / whole:.1%}" if whole else "–"


def printable(text: str) -> str:
    """`text` without the control characters that a model may well generate, and a terminal would obey."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
