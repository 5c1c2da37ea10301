"""Curves as inline SVG: thinned while they are read, drawn with the page's own colours."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 80, 12, 12, 34  # margins around the plot, in units of the viewBox
COLUMNS = WIDTH - LEFT - RIGHT

Point = tuple[int, float]


class Envelope:
    """A curve of any length in bounded memory that looks the same: per column of pixels the first,
    lowest, highest and last point (M4; Jugel et al. 2014, VLDB 7(10)). No extreme is lost.
    """

    def __init__(self, first: int, last: int, columns: int = COLUMNS) -> None:
        self._first = first
        self._span = last - first + 1
        self._columns: list[list[Point] | None] = [None] * min(columns, self._span)

    def add(self, step: int, value: float | None) -> None:
        """Add a point; steps rise. None (a number that was not finite) leaves a gap where its column has nothing else."""
        index = (step - self._first) * len(self._columns) // self._span
        if not 0 <= index < len(self._columns):
            return
        column = self._columns[index]
        if column is None:
            self._columns[index] = [] if value is None else [(step, value)] * 4
        elif value is not None:
            point = (step, value)
            if not column:
                column += [point] * 4
                return
            if value < column[1][1]:
                column[1] = point
            if value > column[2][1]:
                column[2] = point
            column[3] = point

    def runs(self) -> list[list[Point]]:
        """The points that are left, in order of steps, cut where there is a gap."""
        runs: list[list[Point]] = [[]]
        for column in self._columns:
            if column is None:
                continue
            if column:
                runs[-1] += sorted(set(column))
            elif runs[-1]:
                runs.append([])
        return [run for run in runs if run]


@dataclass(frozen=True)
class Series:
    """One curve of a chart; `style` is a class of the style sheet."""

    name: str
    style: str
    runs: Sequence[Sequence[Point]]
    dots: bool = False

    def points(self) -> list[Point]:
        return [point for run in self.runs for point in run]


def level(name: str, value: float, steps: tuple[int, int]) -> Series:
    """A horizontal line to compare with."""
    return Series(name, "level", [[(steps[0], value), (steps[1], value)]])


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from at or below `low` to at or above `high`."""
    raw = (high - low) / count or abs(high) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(start, max(end, start + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around positive `low` and `high`, thinned to at most 7."""
    start, end = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    end = max(end, start + 1)
    stride = -(-(end - start) // 6)
    return [10.0**power for power in range(start, end + stride, stride)]


def chart(
    title: str, series: Iterable[Series], show: Callable[[float], str], *, zero: bool = False, log: bool = False, wide: bool = False, along: str = "step"
) -> str:
    """A figure: curves over steps, a caption that says them in words, and the values for the pointer.

    Args:
        show: a value in words, for axis and caption.
        zero: the axis begins at 0.
        log: a logarithmic axis, if all values are positive.
        wide: as wide as the page.
        along: what the horizontal axis counts, if not steps.
    """
    drawn = [item for item in series if item.points()]
    if not drawn:
        return ""
    steps = [step for item in drawn for step, _ in item.points()]
    values = [value for item in drawn for _, value in item.points()]
    log = log and min(values) > 0
    ticks = log_ticks(min(values), max(values)) if log else linear_ticks(0.0 if zero else min(values), max(values), 5)
    first, last = min(steps), max(steps)
    scale = math.log if log else float
    low, high = scale(ticks[0]), scale(ticks[-1])

    def x(step: float) -> float:
        return LEFT + (step - first) / max(last - first, 1) * COLUMNS

    def y(value: float) -> float:
        return TOP + (high - scale(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick):.1f}" dy=".35em" text-anchor="end">{html.escape(show(tick))}</text>')
    for tick in (tick for tick in linear_ticks(first, last, 5) if first <= tick <= last and tick == int(tick)):
        anchor = "end" if x(tick) > WIDTH - RIGHT - 30 else "middle"
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{int(tick):,}</text>')
    for item in drawn:
        path = "".join("M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in run) for run in item.runs)
        parts.append(f'<path class="curve {item.style}" d="{path}"/>')
        lone = item.points() if item.dots else [run[0] for run in item.runs if len(run) == 1]
        parts += [f'<circle class="{item.style}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>' for step, value in lone]
    parts.append(f'<path class="rule" d="M0 {TOP}V{HEIGHT - BOTTOM}"/>')
    words = "; ".join(_in_words(item, show, along) for item in drawn)
    label = html.escape(f"{title} over {first:,} to {last:,} {along}s. {words}")
    keys = "".join(f'<span class="key"><i class="{item.style}"></i>{html.escape(item.name)}</span>' for item in drawn)
    hover = {
        "plot": [LEFT, WIDTH - RIGHT, WIDTH],
        "steps": [first, last],
        "along": along,
        "series": [{"name": item.name, "points": [(step, show(value)) for step, value in item.points()]} for item in drawn],
    }
    return (
        f'<figure class="chart{" wide" if wide else ""}"><h3>{html.escape(title)}{" (log)" if log else ""}</h3><div class="keys">{keys}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f'<output></output><figcaption>{html.escape(words)}</figcaption><script type="application/json">{_json(hover)}</script></figure>'
    )


def _in_words(item: Series, show: Callable[[float], str], along: str) -> str:
    points = item.points()
    if item.style == "level":
        return f"{item.name} {show(points[0][1])}"
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    return (
        f"{item.name}: {show(points[0][1])} at {along} {points[0][0]:,}, {show(points[-1][1])} at {along} {points[-1][0]:,}, "
        f"lowest {show(low[1])} ({along} {low[0]:,}), highest {show(high[1])} ({along} {high[0]:,})"
    )


def _json(value: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
