"""Two ways to compute the same, timed in this process in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.measure import collect, median_interval, order
from benchmarks.options import Options
from benchmarks.report import Row

PASSES = 3  # of each in a pair; the fastest counts
LIMIT = 1.0  # above it, it does not pay
WIDTH = 0.1  # of the interval


def compare(case: str, ours: Callable[[], object], theirs: Callable[[], object], options: Options) -> Row:
    """The row of `case`, with the median milliseconds of each."""
    ways = {"ours": ours, "theirs": theirs}
    times: dict[str, list[float]] = {name: [] for name in ways}

    def pair(number: int) -> float:
        for name in order(number, list(ways)):
            times[name].append(min(_seconds(ways[name]) for _ in range(PASSES)))
        return times["ours"][-1] / times["theirs"][-1]

    pair(0)  # kernels are chosen, caches filled
    for taken in times.values():
        taken.clear()
    least = options.pairs or 20
    ratios = collect(pair, least, least if options.quick or options.pairs else 5 * least, WIDTH)
    ours_told, theirs_told = (f"{1000 * statistics.median(times[name]):.3g} ms" for name in ways)
    return Row(case, ours_told, theirs_told, median_interval(ratios), LIMIT)


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
