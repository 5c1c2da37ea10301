"""profile.html: one self-contained file, a function of profile.json alone."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping
from typing import Any

from trainer.report.curves import Point, Series, chart
from trainer.report.style import SCRIPT, STYLE

NOTES = {
    "PCA": "Linear dimensions: how many orthogonal directions hold so much of the variance. Features of larger spread count more: standardise first.",
    "TwoNN": "Dimension of the surface that the rows lie on, curved or not, from the ratios of distances to the two nearest neighbours (Facco et al. 2017). "
    "Above about 20 it reads too low: rows are then too few to see a small enough neighbourhood.",
    "distances": "With many independent features all rows are about equally far from each other (Beyer et al. 1999): then nearest neighbours, clusters and "
    "kernels tell little. Relative contrast near 0, and a curve as narrow as the Gaussian one, say so.",
    "metric": "Cross-validated on the training split, components fitted without the fold that is measured; quick models, to see the shape, not to be beaten.",
}


def page(name: str, found: Mapping[str, Any]) -> str:
    """The page."""
    sections = [
        f'<h1>{html.escape(name)}</h1><p class="lead">Training split of {html.escape(str(found["source"] or "the data"))}: the curse of dimensionality</p>',
        tiles(found),
        f'<h2>Curves</h2><div class="charts">{"".join(charts(found))}</div>',
        "<h2>How to read this</h2>" + "".join(f"<p><b>{html.escape(what)}.</b> {html.escape(said)}</p>" for what, said in NOTES.items()),
    ]
    if found["constant"]:
        told = ", ".join(found["constant"][:20]) + (f" and {len(found['constant']) - 20} more" if len(found["constant"]) > 20 else "")
        sections.append(f"<h2>Constant features</h2><p>{html.escape(told)}</p>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(name)}: data profile</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>{chr(10).join(sections)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def tiles(found: Mapping[str, Any]) -> str:
    """The numbers to see first."""
    rows, features, nn, far, against = (found[key] for key in ("rows", "features", "intrinsic", "distances", "against"))
    many = found["components_for"]["0.95"]
    shown = [
        ("Rows", f"{rows:,}", f"{rows / features:.3g} a feature"),
        ("Features", f"{features:,}", f"{len(found['constant'])} of them constant"),
        ("PCA at 95 %", str(many or f"> {len(found['shares'])}"), "components" + (f", {rows / many:.3g} rows for each" if many else "")),
    ]
    if nn is not None:
        interval = f"95 % interval {nn['low']:.1f} to {nn['high']:.1f}; {rows / nn['dimension']:.3g} rows for each; {nn['duplicates']:,} duplicates left out"
        shown.append(("Intrinsic dimension", f"{nn['dimension']:.1f}", f"TwoNN, {interval}"))
    if far is not None:
        for key, title in (("relative_contrast", "Relative contrast"), ("variation", "Variation of distances")):
            shown.append((title, f"{far[key]:.3g}", f"{far['features']:,} independent Gaussian features: {far['gaussian'][key]:.3g}"))
    if "models" in against:
        for name, scores in against["models"].items():
            shown.append(
                (_title(against["metric"]), f"{max(scores['mean']):.3f}", f"{name}, best; {scores['mean'][-1]:.3f} with {against['components'][-1]} components")
            )
    if found["reduce"]:
        shown.append(("data.reduce", found["reduce"].split(":")[0], found["reduce"].split(": ")[1]))
    items = "".join(f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>" for key, value, note in shown)
    return f'<dl class="tiles">{items}</dl>'


def charts(found: Mapping[str, Any]) -> list[str]:
    """Explained variance, the metric, and the spread of distances."""
    total = list(itertools.accumulate(found["shares"]))
    ends = (1, len(total))
    explained = [Series("explained", "train", [_thinned(total)]), Series("enough", "level", [[(ends[0], 0.95), (ends[1], 0.95)]])]
    drawn = [chart("Explained variance against components", explained, _percent, zero=True, along="component")]
    against, far = found["against"], found["distances"]
    if "models" in against:
        curves = [
            Series(name, style, [list(zip(against["components"], scores["mean"], strict=True))], dots=True)
            for (name, scores), style in zip(against["models"].items(), ("train", "eval"), strict=True)
        ]
        drawn.append(chart(f"{_title(against['metric'])} against components kept", curves, _number, along="component"))
    if far is not None:
        curves = [
            Series(name, style, [[(2 * place + 1, share) for place, share in enumerate(density)]])
            for name, style, density in (("the data", "train", far["density"]), ("independent Gaussian", "eval", far["gaussian"]["density"]))
        ]
        drawn.append(chart("Share of distances, in % of their mean", curves, _percent, zero=True, along="percent"))
    return drawn


def _thinned(values: list[float]) -> list[Point]:
    """Points (1, first), ... of a rising curve: at most 500, and the last."""
    step = -(-len(values) // 500)
    return [(place + 1, values[place]) for place in sorted({*range(0, len(values), step), len(values) - 1})]


def _title(metric: str) -> str:
    return metric[0].upper() + metric[1:]


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}"
