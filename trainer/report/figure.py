"""A picture of a report: inline SVG, with what it shows in words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from trainer.report.curves import WIDTH


def figure(title: str, height: float, parts: Sequence[str], words: str, width: float = WIDTH) -> str:
    """An SVG of `parts` with its title above, and `words` that say what it shows below."""
    label = html.escape(f"{title}. {words}")
    return (
        f'<figure class="chart"><h3>{html.escape(title)}</h3><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )
