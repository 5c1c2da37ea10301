"""The colours of what speaks for and against a decision, which words and pictures share. Plain data in, HTML out."""

from __future__ import annotations

import html
from collections.abc import Sequence

FOR, AGAINST = (215, 58, 49), (31, 111, 235)
OVER_TEXT = 0.55  # opacity of the largest value: text over it can still be read, on a light page and on a dark one
OVER_PICTURE = 0.8

STYLE = f"""
.shades {{ display: flex; align-items: center; gap: 8px; font-size: .85rem; color: var(--quiet); font-variant-numeric: tabular-nums; }}
.shades i {{ width: 120px; height: 12px; border: 1px solid var(--line); border-radius: 3px;
  background: linear-gradient(90deg, rgba({AGAINST[0]},{AGAINST[1]},{AGAINST[2]},var(--most)), transparent, rgba({FOR[0]},{FOR[1]},{FOR[2]},var(--most))); }}
.shades i.only {{ background: linear-gradient(90deg, transparent, rgba({FOR[0]},{FOR[1]},{FOR[2]},var(--most))); }}
"""


def colour(value: float, most: float, opacity: float) -> str:
    """CSS: red what speaks for the decision, blue what speaks against it, as opaque as `value` is large, of at most `most`."""
    red, green, blue = FOR if value > 0 else AGAINST
    return f"rgba({red},{green},{blue},{opacity * min(abs(value) / most, 1) if most else 0:.3f})"


def legend(most: float, lowest: float, opacity: float) -> str:
    """The scale of the colours, from -`most`, or from 0 where no value is below it (`lowest`)."""
    least, kind = (f"{-most:.3g}, against it", "") if lowest < 0 else ("0", ' class="only"')
    return f'<p class="shades" style="--most:{opacity}"><span>{least}</span><i{kind}></i><span>{most:+.3g}, for it</span></p>'


def told(value: float, deviation: float | None = None) -> str:
    """A value, with its standard error if it was sampled."""
    return f"{value:+.3g}" + (f" ± {deviation:.2g}" if deviation is not None else "")


def strongest(names: Sequence[str], values: Sequence[float], count: int = 3) -> str:
    """In words, what speaks most for the decision and against it."""
    order = sorted(range(len(values)), key=lambda number: -values[number])
    parts = []
    for what, chosen in (("most for it", order[:count]), ("most against", order[::-1][:count])):
        sign = 1 if what == "most for it" else -1
        if those := [f"{names[number]} {told(values[number])}" for number in chosen if sign * values[number] > 0]:
            parts.append(f"{what}: {', '.join(those)}")
    return "; ".join(parts) or "nothing speaks for it or against it"


def decided(shown: dict[str, object]) -> str:
    """In words, what is explained, and whether it is what the model predicts and what is true."""
    if "box" in shown:
        return f"a box of score {shown['score']:.3g}"

    def what(key: str) -> str:
        value = shown[key]
        return f"{value:.4g}" if isinstance(value, float) else quoted(str(value)) if shown.get("continues") else str(value)

    said = [f"explained: {what('explained')}"]
    if shown["predicted"] != shown["explained"]:
        said.append(f"predicted: {what('predicted')}")
    if "probability" in shown:
        said[-1] += f" ({shown['probability']:.1%} sure)"
    return ", ".join([*said, f"true: {what('truth')}"])


def quoted(text: str) -> str:
    """A word, without the white space around it."""
    return f"“{text.strip() or visible(text)}”"


def visible(text: str) -> str:
    """`text`, with signs for white space where it is nothing else."""
    return text if text.strip() else text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")


def figure(title: str, scale: str, body: str, words: str) -> str:
    """A figure with the `scale` above and what it shows in words below."""
    return f'<figure class="chart"><h3>{html.escape(title)}</h3>{scale}{body}<figcaption>{html.escape(words)}</figcaption></figure>'
