"""A picture of a report: inline SVG, with what it shows in words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from trainer.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH


def figure(title: str, height: float, parts: Sequence[str], words: str, width: float = WIDTH) -> str:
    """An SVG of `parts` with its title above, and `words` that say what it shows below."""
    label = html.escape(f"{title}. {words}")
    return (
        f'<figure class="chart"><h3>{html.escape(title)}</h3><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )


def down(value: float, ticks: Sequence[float]) -> float:
    """Where `value` is on an axis of `ticks`."""
    return TOP + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)


def across(tick: float, y: float, said: str) -> str:
    """A line of the grid at `y`, and what it is called."""
    return f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/><text x="{LEFT - 8}" y="{y:.1f}" dy=".35em" text-anchor="end">{html.escape(said)}</text>'
