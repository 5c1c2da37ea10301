"""Attributions as inline SVG, in the page's own colours and with what they show in words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from trainer.report.curves import RIGHT, TOP, WIDTH
from trainer.report.figure import figure

STYLE = """
.up { fill: var(--eval); } .down { fill: var(--train); } .whisker { stroke: var(--text); stroke-width: 1.2; }
.checks tbody th { width: 17%; } td.verdict { white-space: nowrap; overflow-wrap: normal; } .checks { margin-bottom: 14px; }
td.passed { color: var(--good); font-weight: 600; } td.failed { color: var(--bad); font-weight: 600; }
tr.failed > * { background: color-mix(in srgb, var(--bad) 9%, transparent); }
"""
NAMES, ROW, FOOT, NUMBER = 270, 26, 12, 80  # width of the names beside bars, height of a bar with its gap, of what is below, width of a number


def bars(title: str, values: Sequence[tuple[str, float, float | None]], words: str) -> str:
    """(name, value, its standard error or None) as bars from a line at 0: to the right what speaks for the decision, to the left what speaks against."""
    low = min(0.0, *(value - 1.96 * (error or 0.0) for _, value, error in values))
    high = max(0.0, *(value + 1.96 * (error or 0.0) for _, value, error in values))
    span = (high - low) or 1.0
    left, room = NAMES + (NUMBER if low < 0 else 0), WIDTH - RIGHT - NUMBER - NAMES - (NUMBER if low < 0 else 0)
    height = TOP + ROW * len(values) + FOOT

    def x(value: float) -> float:
        return left + (value - low) / span * room

    parts = [f'<path class="grid" d="M{x(0):.1f} {TOP}V{height - FOOT}"/>']
    for i, (name, value, error) in enumerate(values):
        middle = TOP + ROW * (i + 0.5)
        ends = [x(value)]
        short = name if len(name) <= 34 else f"{name[:33]}…"
        parts.append(
            f'<text class="name" x="{NAMES - 10}" y="{middle:.1f}" dy=".35em" text-anchor="end">{html.escape(short)}<title>{html.escape(name)}</title></text>'
        )
        side = "up" if value >= 0 else "down"
        parts.append(f'<rect class="{side}" x="{min(x(0), x(value)):.1f}" y="{middle - 8:.1f}" width="{max(abs(x(value) - x(0)), 1):.1f}" height="16" rx="2"/>')
        if error is not None:
            ends = [x(value - 1.96 * error), x(value + 1.96 * error)]
            parts.append(f'<path class="whisker" d="M{ends[0]:.1f} {middle:.1f}H{ends[1]:.1f}"/>')
        at, anchor = (max(*ends, x(0)) + 6, "start") if value >= 0 else (min(*ends, x(0)) - 6, "end")
        parts.append(f'<text x="{at:.1f}" y="{middle:.1f}" dy=".35em" text-anchor="{anchor}">{value:+.3g}</text>')
    return figure(title, height, parts, words)
