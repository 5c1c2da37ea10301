"""What an explainer says of a text, as words on a ground of their colour. Plain data in, HTML out."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.explain.shades import OVER_TEXT, colour, decided, figure, legend, quoted, strongest, told, visible

STYLE = """
.words { white-space: pre-wrap; overflow-wrap: anywhere; font: .95rem/1.9 ui-monospace, Menlo, Consolas, monospace; margin: 8px 0; }
.words mark { color: inherit; padding: 2px 1px; border-radius: 3px; }
.words b { border-bottom: 2px solid var(--quiet); font-weight: 600; }
"""


def heat_map(title: str, shown: Mapping[str, Any], values: Sequence[float], deviation: Sequence[float] | None = None) -> str:
    """A figure: the words, each on its colour, with its value on hover and for a reader of screens; then the next token, if they explain that.

    shown: as `TextDecisions.shown` gives it; values: of each word.
    """
    most = max(map(abs, values), default=0.0)
    parts = []
    for number, (word, value) in enumerate(zip(shown["words"], values, strict=True)):
        said = told(value, None if deviation is None else deviation[number])
        bare = word.lstrip() or visible(word)
        space = word[: len(word) - len(word.lstrip())] if word.strip() else ""
        parts.append(f'{html.escape(space)}<mark style="background:{colour(value, most, OVER_TEXT)}" title="{said}">{html.escape(bare)}</mark>')
    if shown["continues"]:
        parts.append(f'<b title="the token that is explained">{html.escape(visible(shown["explained"]))}</b>')
    words = f"{decided(dict(shown))}; {strongest([quoted(word) for word in shown['words']], values)}"
    return figure(title, legend(most, min(values, default=0.0), OVER_TEXT), f'<p class="words">{"".join(parts)}</p>', words)
