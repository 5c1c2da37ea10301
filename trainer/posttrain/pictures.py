"""Pictures of compressions as inline SVG, in the page's own colours and with what they show in words."""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.report.curves import BOTTOM, COLUMNS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, linear_ticks
from trainer.report.figure import across, down, figure

STYLE = """
.bar { fill: var(--train); } .bar.more { fill: var(--eval); } .dot { fill: var(--card); stroke: var(--quiet); stroke-width: 1.8; }
.dot.best { fill: var(--train); stroke: var(--train); } .dot.before { fill: var(--text); stroke: var(--text); }
svg text.name { fill: var(--text); } tr.best > th { color: var(--good); font-weight: 600; }
.scroll .index { min-width: 1060px; } .index th, .index td { overflow-wrap: normal; } .index tbody th { width: auto; } .index small { display: block; }
.note { color: var(--quiet); font-size: .9rem; }
.box { stroke-width: 2; } .halo { stroke: #000; stroke-width: 4; stroke-opacity: .6; }
.true { stroke: #fff; stroke-dasharray: 4 3; } .right { stroke: #3fdc63; } .wrong { stroke: #ff5a4f; }
.key .true { border-top-style: dashed; border-color: var(--quiet); } .key .right { border-color: #3fdc63; } .key .wrong { border-color: #ff5a4f; }
"""
BOXES = (
    '<p class="keys"><span class="key"><i class="true"></i>true</span><span class="key"><i class="right"></i>found, right (IoU at least 0.5)</span>'
    '<span class="key"><i class="wrong"></i>found, wrong</span></p>'
)
NAMES, ROW = 230, 34  # width of the names beside bars, and the height of a bar with its gap


def ratios(title: str, bars: Sequence[tuple[str, float]]) -> str:
    """(what, after / before) as bars from 0, with a line at 1."""
    most = max(1.0, *(ratio for _, ratio in bars))
    height = TOP + ROW * len(bars) + BOTTOM
    room = WIDTH - RIGHT - 70 - NAMES  # the number stands after the bar

    def x(ratio: float) -> float:
        return NAMES + ratio / most * room

    parts = []
    for i, (what, ratio) in enumerate(bars):
        middle = TOP + ROW * (i + 0.5)
        parts.append(f'<text class="name" x="{NAMES - 10}" y="{middle:.1f}" dy=".35em" text-anchor="end">{html.escape(what)}</text>')
        parts.append(
            f'<rect class="bar{" more" if ratio > 1 else ""}" x="{NAMES}" y="{middle - 10:.1f}" width="{max(x(ratio) - NAMES, 1):.1f}" height="20" rx="3"/>'
        )
        parts.append(f'<text x="{max(x(ratio), x(1)) + 8:.1f}" y="{middle:.1f}" dy=".35em">{ratio:.3g}</text>')
    parts.append(f'<path class="curve level" d="M{x(1):.1f} {TOP}V{height - BOTTOM}"/>')
    parts.append(f'<text x="{x(1):.1f}" y="{height - 10}" text-anchor="middle">before = 1</text>')
    return figure(title, height, parts, "; ".join(f"{what} {ratio:.3g}" for what, ratio in bars))


def errors(title: str, layers: Mapping[str, float]) -> str:
    """The error of each layer, in order, as columns from 0."""
    ticks = linear_ticks(0.0, max(layers.values()) or 1.0, 4)
    step = COLUMNS / len(layers)
    parts = [across(tick, down(tick, ticks), f"{tick:.3g}") for tick in ticks]
    for i, (name, value) in enumerate(layers.items()):
        top = down(value, ticks)
        parts.append(
            f'<rect class="bar" x="{LEFT + i * step + step * 0.1:.2f}" y="{top:.1f}" width="{step * 0.8:.2f}" height="{max(HEIGHT - BOTTOM - top, 0.5):.1f}">'
            f"<title>{html.escape(name)}: {value:.4g}</title></rect>"
        )
    parts.append(f'<text x="{LEFT + COLUMNS / 2}" y="{HEIGHT - 10}" text-anchor="middle">{len(layers)} layers, in order</text>')
    worst = max(layers, key=lambda name: layers[name])
    return figure(title, HEIGHT, parts, f"largest {layers[worst]:.3g} ({worst}), median {statistics.median(layers.values()):.3g}")


@dataclass(frozen=True)
class Point:
    """A model in a picture of a front."""

    label: str
    x: float
    y: float
    best: bool
    """It is on the front."""
    told: str
    link: str | None = None
    """To its report; None: the model before compression."""


def scatter(title: str, points: Sequence[Point], show_x: Callable[[float], str], show_y: Callable[[float], str], below: str) -> str:
    """Points over an axis from 0, those on the front joined. `below`: what the horizontal axis is."""
    marks = linear_ticks(0.0, max(point.x for point in points), 4)
    low, high = min(point.y for point in points), max(point.y for point in points)
    ticks = linear_ticks(low - (high - low) / 10, high + (high - low) / 10, 4)  # with room for what the lowest and highest are called
    height = HEIGHT + 24

    def x(value: float) -> float:
        return LEFT + value / marks[-1] * (COLUMNS - 20)

    parts = [across(tick, down(tick, ticks), show_y(tick)) for tick in ticks]
    parts += [f'<text x="{x(tick):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(show_x(tick))}</text>' for tick in marks]
    parts.append(f'<text x="{LEFT + COLUMNS / 2}" y="{height - 8}" text-anchor="middle">{html.escape(below)}</text>')
    best = sorted((point for point in points if point.best), key=lambda point: point.x)
    path = "L".join(f"{x(point.x):.1f} {down(point.y, ticks):.1f}" for point in best)
    parts.append(f'<path class="curve train" d="M{path}"/>')
    for point in points:
        style = "before" if point.link is None else "best" if point.best else ""
        at = f'cx="{x(point.x):.1f}" cy="{down(point.y, ticks):.1f}"'
        dot = f'<circle class="dot {style}" {at} r="6"><title>{html.escape(point.told)}</title></circle>'
        parts.append(f'<a href="{html.escape(point.link)}">{dot}</a>' if point.link else dot)
        above = -12 if point.link else 22
        parts.append(f'<text class="name" x="{x(point.x):.1f}" y="{down(point.y, ticks) + above:.1f}" text-anchor="middle">{html.escape(point.label)}</text>')
    return figure(title, height, parts, f"on the front: {', '.join(point.label for point in best)}")


def boxes(title: str, seen: Mapping[str, Any], when: str) -> str:
    """A sample of pictures.json with its true boxes and those found, `when`: before or after."""
    width, height = seen["width"], seen["height"]
    kinds = {"true": seen["wanted"], "wrong": [box for box in seen[when] if not box[-1]], "right": [box for box in seen[when] if box[-1]]}
    parts = [f'<image href="{html.escape(seen["image"])}" width="{width}" height="{height}"/>']
    for kind, found in kinds.items():
        if outlines := "".join(f"M{box[0]:.1f} {box[1]:.1f}H{box[2]:.1f}V{box[3]:.1f}H{box[0]:.1f}Z" for box in found):
            parts += [f'<path class="halo" d="{outlines}"/>', f'<path class="box {kind}" d="{outlines}"/>']
    words = f"{len(kinds['right'])} of {len(kinds['true'])} found; {len(kinds['wrong'])} wrong"
    return figure(title, height, parts, words, width)
