"""Calibration and cost as inline SVG, in the report's own colours and with what they show in words."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.assess.told import NEURAL
from trainer.report.curves import BOTTOM, COLUMNS, HEIGHT, LEFT, linear_ticks
from trainer.report.figure import across, down, figure

STYLES = ("train", "eval", "third")  # of the models, in order


def calibration(models: Mapping[str, Any]) -> str:
    """Predicted against observed shares of default, with the intervals of the first model."""
    most = max(max(point["predicted"], point["high"] if name == NEURAL else point["observed"]) for name, one in models.items() for point in one["calibration"])
    ticks = linear_ticks(0.0, most, 4)
    x = _axis(ticks)
    parts = _frame(ticks, ticks, _percent, "probability of default that was predicted")
    parts.append(f'<path class="curve level" d="M{x(0):.1f} {down(0, ticks):.1f}L{x(ticks[-1]):.1f} {down(ticks[-1], ticks):.1f}"/>')
    for style, one in reversed(list(zip(STYLES, models.values(), strict=True))):  # the first on top
        parts.append(_curve(style, [(x(point["predicted"]), down(point["observed"], ticks)) for point in one["calibration"]]))
        for point in one["calibration"]:
            at = x(point["predicted"])
            if one is models[NEURAL]:
                parts.append(f'<path class="curve {style}" d="M{at:.1f} {down(point["low"], ticks):.1f}V{down(point["high"], ticks):.1f}"/>')
            parts.append(f'<circle class="{style}" cx="{at:.1f}" cy="{down(point["observed"], ticks):.1f}" r="3.5"/>')
    words = "Share that defaults, over tenths of the applicants by what was predicted: on the dashed line, predictions are exact. Bars: 95 % intervals."
    return _keyed(models, figure("Are the probabilities right?", HEIGHT + 24, parts, words))


def cost(curves: Mapping[str, Sequence[Sequence[float]]], decisions: Mapping[str, Any], unit: str) -> str:
    """Cost per applicant against the share refused, with what each model's threshold comes to."""
    ticks = linear_ticks(0.0, max(cost for curve in curves.values() for _, cost in curve), 4)
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    x = _axis(shares)
    parts = _frame(shares, ticks, lambda value: f"{value:,.3g}", "share of applicants refused, the likeliest to default first")
    for style, (name, curve) in reversed(list(zip(STYLES, curves.items(), strict=True))):
        parts.append(_curve(style, [(x(share), down(cost, ticks)) for share, cost in curve]))
        at = decisions[name]
        parts.append(f'<circle class="{style}" cx="{x(at["refused"]["value"]):.1f}" cy="{down(at["cost"]["value"], ticks):.1f}" r="6"/>')
    what = f"Cost per applicant{f' in {unit}' if unit else ''}"
    words = f"{what}: nobody is refused on the left, everybody on the right. Dots: the thresholds, chosen on the training split."
    return _keyed(curves, figure("What does refusing cost?", HEIGHT + 24, parts, words))


def _axis(ticks: Sequence[float]) -> Callable[[float], float]:
    return lambda value: LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (COLUMNS - 16)


def _frame(along: Sequence[float], ticks: Sequence[float], show: Callable[[float], str], below: str) -> list[str]:
    x = _axis(along)
    parts = [across(tick, down(tick, ticks), show(tick)) for tick in ticks]
    parts += [f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{_percent(tick)}</text>' for tick in along]
    return [*parts, f'<text x="{LEFT + COLUMNS / 2}" y="{HEIGHT + 14}" text-anchor="middle">{html.escape(below)}</text>']


def _curve(style: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<path class="curve {style}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _keyed(names: Mapping[str, Any], drawn: str) -> str:
    """`drawn` with the colours of `names` under its title."""
    keys = "".join(f'<span class="key"><i class="{style}"></i>{html.escape(name)}</span>' for style, name in zip(STYLES, names, strict=True))
    return drawn.replace("</h3>", f'</h3><div class="keys">{keys}</div>', 1)
