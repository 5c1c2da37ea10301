"""What a check found, as plain data, and the arithmetic that checks share. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Found = Mapping[str, Any]
"""What was measured on one sample: plain numbers, lists and dicts of them; None where there was nothing to measure."""


@dataclass(frozen=True)
class Check:
    """One line of the evidence. Plain data: `dataclasses.asdict` of it is JSON."""

    about: str
    """truth, faithfulness, stability, sanity or agreement."""
    name: str
    value: float | None
    """The figure that is judged. None: there was nothing to measure."""
    against: str
    """What it is held against, in words."""
    passed: bool | None
    """None: told, not judged."""
    meaning: str
    """One sentence for people: what it means that it passed, that it failed, or why it is not judged."""
    interval: tuple[float, float] | None = None
    """Of 95 %, over samples."""
    details: dict[str, float] = field(default_factory=dict)
    """Other figures by name, in the order in which they are to be shown."""


def check(about: str, name: str, value: float | None, against: str, passed: bool | None, yes: str, no: str, told: str, **more: Any) -> Check:
    """A check with the sentence that fits how it came out: `yes` for passed, `no` for failed, `told` for not judged."""
    return Check(about, name, value, against, passed, told if passed is None else yes if passed else no, **more)


def numbers(found: Iterable[Found], *keys: str) -> list[float]:
    """Of each sample the figure at `keys`, those that have one."""
    every = []
    for one in found:
        value: Any = one
        for key in keys:
            value = None if value is None else value.get(key)
        if value is not None:
            every.append(float(value))
    return every


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return math.fsum(values) / len(values) if values else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The normal interval of 95 % of the mean of independent `values`; None of fewer than two."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    half = 1.96 * math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1) / len(values))
    return centre - half, centre + half
