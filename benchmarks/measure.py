"""Medians of ratios and what they say of a claim. A machine's drift cancels in a pair; the median bears outliers."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
LEAST_PAIRS = 6  # with fewer, not even the span of all ratios covers the median 95 times in 100


@dataclass(frozen=True)
class Interval:
    """A median and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        return self.high - self.low


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median and its confidence interval from order statistics: right for any distribution.

    The k-th smallest and k-th largest value hold the median between them unless fewer than k of n
    values fall on one side of it, which is Binomial(n, 1/2) (David and Nagaraja 2003, section 7.1).

    Raises:
        ValueError: too few values for any such interval.
    """
    ordered = sorted(values)
    n = len(ordered)
    k, below = 0, 0.0  # `below`: the chance of fewer than k + 1 values on one side
    while True:
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - confidence:
            break
        k += 1
    if k == 0:
        raise ValueError(f"{n} values: too few for an interval of {confidence:.0%}")
    return Interval(statistics.median(ordered), ordered[k - 1], ordered[n - k], n)


def collect(pair: Callable[[int], float], least: int, most: int, width: float) -> list[float]:
    """Ratios of `least` pairs, and of more, up to `most`, while their interval is wider than `width`."""
    ratios = [pair(number) for number in range(least)]
    while len(ratios) < most and median_interval(ratios).width > width:
        ratios.append(pair(len(ratios)))
    return ratios


def order(number: int, names: Sequence[str]) -> list[str]:
    """`names` in an order that is drawn afresh for each pair, the same in every process."""
    return random.Random(number).sample(list(names), len(names))


def verdict(ratio: Interval, limit: float) -> str:
    """Whether "the ratio is at most `limit`" holds, by where the whole interval lies."""
    if ratio.high <= limit:
        return "met"
    return "missed" if ratio.low > limit else "open"
