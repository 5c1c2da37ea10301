"""The explanations of a run as a section of its report: a function of explain.json alone. Nothing here imports torch."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.explain import drawn_image, drawn_text, pictures, shades
from trainer.explain.drawn_image import overlay
from trainer.explain.drawn_text import heat_map
from trainer.explain.pictures import bars
from trainer.explain.run import explanations

MOST = 15  # units in a picture
STYLES = (pictures.STYLE, shades.STYLE, drawn_text.STYLE, drawn_image.STYLE)


def section(run_dir: Path) -> str:
    """HTML; empty where nothing was explained."""
    found = explanations(run_dir)
    if not found:
        return ""
    parts = [
        f"<style>{''.join(STYLES)}</style><h2>Why it decides so</h2>",
        f"<p>{found['samples']:,} decisions of the evaluation split, by {html.escape(', '.join(found['explainers']))}. What is explained: "
        f"{html.escape(found['decision'])}. A value says how much of that a unit adds, against the background ({found['background']:,} samples of the "
        "training split). An explanation is to be believed as far as its checks pass.</p>",
    ]
    if found["checks"]:
        parts += ["<h3>All explainers</h3>", checks_table(found["checks"])]
    for name, one in found["explainers"].items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        if "importance" in one:
            parts.append(f'<div class="charts">{"".join(importances(one["importance"]))}</div>')
            continue
        if one["checks"]:
            parts.append(checks_table(one["checks"]))
        drawn = [over_all(one["global"], found["samples"])] if one["global"] else []
        drawn += [decision(row, found["shown"][str(row["sample"])]) for row in one["shown"]]
        parts.append(f'<div class="charts">{"".join(drawn)}</div>')
    return "\n".join(parts)


def over_all(units: Mapping[str, Mapping[str, float]], samples: int) -> str:
    """The units that matter most over all decisions."""
    ranked = sorted(units.items(), key=lambda item: -item[1]["mean_abs"])
    shown = [(unit, figures["mean_abs"], None) for unit, figures in ranked[:MOST]]
    return bars("What matters most: mean of the absolute value", shown, f"over {samples:,} decisions" + _left_out(len(ranked), len(shown)))


def importances(found: Mapping[str, Any]) -> list[str]:
    """For each metric how much worse it gets when a column is shuffled."""
    drawn = []
    for metric, units in found["worse"].items():
        ranked = sorted(units.items(), key=lambda item: -item[1]["mean"])
        shown = [(unit, figures["mean"], figures["deviation"]) for unit, figures in ranked[:MOST]]
        words = f"{found['metrics'][metric]:.4g} as it is, on {found['samples']:,} samples; with 1.96 standard deviations of the shuffles"
        drawn.append(bars(f"How much worse {metric} gets when a column is shuffled", shown, words + _left_out(len(ranked), len(shown))))
    return drawn


def decision(row: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """One decision: the columns of a row with their values, the words of a text, or a picture."""
    title = f"Sample {row['sample']}"
    if "words" in shown:
        return heat_map(title, shown, row["values"], row.get("deviation"))
    if "regions" in shown:
        return overlay(title, shown, row["values"], row.get("deviation"), row.get("map"))
    errors = row.get("deviation") or [None] * len(row["units"])
    ranked = sorted(zip(row["units"], row["values"], errors, strict=True), key=lambda item: -abs(item[1]))
    named = [(f"{unit} = {_shown(shown['values'].get(unit))}", value, error) for unit, value, error in ranked[:MOST]]
    start = "" if row["base"] is None else f", from {row['base']:.3g} without any"
    words = f"{row['margin']:.4g} in all{start}" + (", with 95 % intervals" if row.get("deviation") else "")
    return bars(title, named, words + _left_out(len(ranked), len(named)))


def checks_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """Each check with what came out and what that means."""
    verdicts = {True: ("passed", "passed"), False: ("failed", "FAILED"), None: ("", "told")}
    rows = []
    for check in checks:
        style, word = verdicts[check["passed"]]
        rows.append(
            f'<tr class="{style}"><th scope="row">{html.escape(check["name"])}</th><td class="verdict {style}">{word}</td>'
            f"<td>{html.escape(_value(check))}</td><td>{html.escape(check['against'])}</td><td>{html.escape(check['meaning'])}</td></tr>"
        )
    head = "".join(f'<th scope="col">{title}</th>' for title in ("check", "", "value", "held against", "what it means"))
    return f'<div class="scroll"><table class="checks"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _value(check: Mapping[str, Any]) -> str:
    """The figure with its interval, and the others."""
    said = "–" if check["value"] is None else f"{check['value']:.4g}"
    if check["interval"] is not None:
        low, high = check["interval"]
        said += f" ({low:.4g} to {high:.4g})"
    return "; ".join([said, *(f"{name} {value:.4g}" for name, value in check["details"].items())])


def _left_out(every: int, shown: int) -> str:
    return f"; {every - shown} more are smaller" if every > shown else ""


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "empty" if value is None else str(value)
