"""What a chain of compressions has come to, as lines for a terminal and as a page. Both are functions of compress.json, pictures.json and export.json alone."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.assess import page as assess_page
from trainer.explain.report import section
from trainer.export import told
from trainer.posttrain import pictures
from trainer.posttrain.chains import COMPRESS, PICTURES, Chain
from trainer.report.style import STYLE
from trainer.units import aligned, count, size
from trainer.writing import write_whole

REPORT = "report.html"
COUNTS = {"parameters": "parameters", "nonzero_parameters": "parameters not zero", "macs": "MACs, 1 sample"}
BYTES = {"disk_bytes": "weights on disk", "memory_bytes": "model in memory"}


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, before, after, change) for each figure."""
    before, after = found["before"], found["after"]
    table = []
    for name in before["metrics"]:
        difference = found["difference"][name]
        table.append((name, *(_interval(one["metrics"][name]) for one in (before, after)), _interval(difference, sign=True)))
    for shown, names in ((_whole_number, COUNTS), (size, BYTES)):
        table += [(what, shown(before[key]), shown(after[key]), _ratio(before[key], after[key])) for key, what in names.items()]
    for batch in before.get("latency", {}):
        one, other = (each["latency"][batch] for each in (before, after))
        shown = (f"{each['median'] * 1e3:.3g} ms (p90 {each['p90'] * 1e3:.3g})" for each in (one, other))
        table.append((f"latency, batch {batch}, {one['threads']} thread{'s'[: one['threads'] != 1]}", *shown, _ratio(one["median"], other["median"])))  # type: ignore[arg-type]
    return table


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table for a terminal."""
    table = [("", "before", "after", "change"), *rows(found)]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    said = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return said + notes(found)


def export_lines(found: Mapping[str, Any]) -> list[str]:
    """The table of exported files for a terminal."""
    return aligned([told.HEAD, *told.rows(found)], {0}).splitlines()


def notes(found: Mapping[str, Any]) -> list[str]:
    """What is to be known of the figures."""
    said = []
    for when in ("before", "after"):
        if names := found[when]["macs_leave_out"]:
            said.append(f"MACs {when} are without {len(names)} layers whose arithmetic PyTorch's counter does not know, such as {names[0]}")
    return said


def left(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(what, after / before) of each figure of size and speed, for a picture."""
    before, after = found["before"], found["after"]
    pairs = [(what, before[key], after[key]) for key, what in (BYTES | COUNTS).items()]
    pairs += [(f"latency, batch {batch}", before["latency"][batch]["median"], after["latency"][batch]["median"]) for batch in before.get("latency", {})]
    return [(what, other / one) for what, one, other in pairs if one]


def write(run_dir: Path) -> Path:
    """Write `run_dir`/report.html from what is told there, and return its path."""
    found, seen = (json.loads((run_dir / name).read_text(encoding="utf-8")) for name in (COMPRESS, PICTURES))
    path = run_dir / REPORT
    write_whole(path, page(run_dir.name, found, seen, told.exports(run_dir), [assess_page.section(run_dir), section(run_dir)]))
    return path


def page(
    name: str,
    found: Mapping[str, Any],
    seen: Sequence[Mapping[str, Any]] = (),
    exported: Mapping[str, Any] | None = None,
    more: Sequence[str] = (),
) -> str:
    """The page: one file, without scripts. `more`: the sections, in HTML, of what else was found of the model."""
    quality = f"{found['quality']} {_worse(found['quality_loss'])} on {found['samples']:,} samples"
    drawn = [pictures.ratios("What is left", left(found))]
    for method, layers in found["layers"].items():
        if of_layers := {layer: figures["error"] for layer, figures in layers.items() if "error" in figures}:
            drawn.append(pictures.errors(f"{method}: relative error of each layer's weights", of_layers))
    sections = [
        f"<h1>{html.escape(name)}</h1><p class='lead'>{html.escape(Chain(name, found).title())} · {html.escape(quality)} · "
        f"compressed from {html.escape(found['from'])}</p>",
        table(("", "before", "after", "change"), rows(found)),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes(found)),
        f'<h2>Pictures</h2><div class="charts">{"".join(drawn)}</div>',
    ]
    if seen:
        shown = "".join(pictures.boxes(f"sample {number}, {when}", one, when) for number, one in enumerate(seen, 1) for when in ("before", "after"))
        sections.append(f'<h2>What is found</h2>{pictures.BOXES}<div class="charts">{shown}</div>')
    if exported:
        sections.append(f"<h2>Exported files</h2>{table(told.HEAD, told.rows(exported))}")
    sections += more
    for method, layers in found["layers"].items():
        sections.append(f"<h2>{html.escape(method)}, layer by layer</h2>{_layers(layers)}")
    return document(f"{name}: compression report", sections)


def document(title: str, sections: Sequence[str]) -> str:
    """A page of `sections` in HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}{pictures.STYLE}</style></head>\n'
        f"<body><main>{chr(10).join(sections)}</main></body></html>\n"
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first cell of each its name."""
    top = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    rest = "".join(f'<tr><th scope="row">{html.escape(row[0])}</th>' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{rest}</tbody></table></div>'


def _layers(layers: Mapping[str, Mapping[str, float]]) -> str:
    keys = list(dict.fromkeys(key for figures in layers.values() for key in figures))
    body = [[layer, *(f"{figures[key]:.4g}" if key in figures else "" for key in keys)] for layer, figures in layers.items()]
    return table(["layer", *keys], body)


def _worse(loss: float) -> str:
    return f"{abs(loss):.2%} {'worse' if loss > 0 else 'better'}" if loss else "the same"


def _whole_number(value: int) -> str:
    return f"{value:,}" if value < 10**7 else count(value, " ")


def _interval(estimate: Mapping[str, float], sign: bool = False) -> str:
    value = f"{estimate['value']:+.5g}" if sign else f"{estimate['value']:.5g}"
    return f"{value} ({estimate['low']:.5g} to {estimate['high']:.5g})"


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.3g} x" if before else "–"
