"""What a chain of compressions has come to, as lines for a terminal and as a page. Both are functions of compress.json alone."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.report.style import STYLE
from trainer.units import size
from trainer.writing import write_whole

COMPRESS = "compress.json"
REPORT = "report.html"


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, before, after, change) for each figure."""
    before, after = found["before"], found["after"]
    table = []
    for name in before["metrics"]:
        difference = found["difference"][name]
        table.append((name, *(_interval(one["metrics"][name]) for one in (before, after)), _interval(difference, sign=True)))
    table.append(("parameters", f"{before['parameters']:,}", f"{after['parameters']:,}", _ratio(before["parameters"], after["parameters"])))
    table.append(("model in memory", size(before["model_bytes"]), size(after["model_bytes"]), _ratio(before["model_bytes"], after["model_bytes"])))
    for batch in before.get("latency", {}):
        one, other = (each["latency"][batch] for each in (before, after))
        told = (f"{each['median'] * 1e3:.3g} ms (p90 {each['p90'] * 1e3:.3g})" for each in (one, other))
        table.append((f"latency, batch {batch}, {one['threads']} threads", *told, _ratio(one["median"], other["median"])))  # type: ignore[arg-type]
    return table


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table for a terminal."""
    table = [("", "before", "after", "change"), *rows(found)]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def write(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from its compress.json, and return its path."""
    found = json.loads((run_dir / COMPRESS).read_text(encoding="utf-8"))
    path = run_dir / REPORT
    write_whole(path, page(run_dir.name, found))
    return path


def page(name: str, found: Mapping[str, Any]) -> str:
    """The page: one file, without scripts."""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("", "before", "after", "change"))
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows(found)
    )
    sections = [
        f"<h1>{html.escape(name)}</h1><p class='lead'>compressed from {html.escape(found['from'])}</p>",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
    ]
    for method, layers in found["layers"].items():
        sections.append(f"<h2>{html.escape(method)}, layer by layer</h2>{_layers(layers)}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(name)}: compression report</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>{chr(10).join(sections)}</main></body></html>\n"
    )


def _layers(layers: Mapping[str, Mapping[str, float]]) -> str:
    keys = list(dict.fromkeys(key for figures in layers.values() for key in figures))
    head = "".join(f'<th scope="col">{html.escape(key)}</th>' for key in ("layer", *keys))
    body = "".join(
        f'<tr><th scope="row">{html.escape(layer)}</th>' + "".join(f"<td>{figures.get(key, ''):.4g}</td>" for key in keys) + "</tr>"
        for layer, figures in layers.items()
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _interval(estimate: Mapping[str, float], sign: bool = False) -> str:
    value = f"{estimate['value']:+.5g}" if sign else f"{estimate['value']:.5g}"
    return f"{value} ({estimate['low']:.5g} to {estimate['high']:.5g})"


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.3g} x" if before else "–"
