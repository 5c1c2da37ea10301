"""Numbers as a person reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
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
    """Bytes in binary units: 12 KiB, 512 MiB, 1.25 GiB."""
    if number < 2**20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def parse_size(text: str) -> int:
    """Bytes of 5GB, 500MB, 1.5GiB or a plain number.

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kKMGT]?)(i?)B?", text.strip())
    value = float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ") if found else 0.0
    if value < 1 or (found is not None and found[3] and not found[2]):
        raise ValueError(f"{text!r} is not a size: give for example 5GB, 500MB or 1GiB")
    return int(value)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:05."""
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "?"


def share(part: float, whole: float) -> str:
    """Percent with one decimal; a dash where there is nothing to have a share of."""
    return f"{part / whole:.1%}" if whole else "–"


def printable(text: str) -> str:
    """`text` without the control characters that a model may well generate, and a terminal would obey."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def interval(value: int | str) -> tuple[int, float]:
    """(steps, seconds) between two of something; one of the two, or both, are 0: never. `value`: steps, or a time: 90s, 10m, 10min, 2h.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{value} steps are fewer than none")
        return value, 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)", value)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{value!r} is no time")
    return 0, float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def aligned(lines: Sequence[Sequence[str]], left: Collection[int]) -> str:
    """A table whose first line is its head; the columns in `left` begin at one place, the others end at one."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    said = [
        "  ".join(item.ljust(width) if i in left else item.rjust(width) for i, (item, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]
    return "\n".join([said[0], "─" * max(map(len, said)), *said[1:]])
