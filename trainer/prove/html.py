"""prove.html: one self-contained page, a pure function of prove.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from trainer.prove.record import said, sentence
from trainer.prove.table import RESUMED, SIGNS
from trainer.report.style import STYLE

MORE_STYLE = """
.verdict { font-size: 1.2rem; font-weight: 600; margin: 18px 0 4px; padding: 12px 16px; border: 1px solid var(--line); border-left: 6px solid var(--quiet);
  border-radius: 8px; background: var(--card); }
.verdict.equal { border-left-color: var(--good); } .verdict.different, .verdict.failed { border-left-color: var(--bad); }
.verdict p { font-size: .95rem; font-weight: 400; margin: 6px 0 0; overflow-wrap: anywhere; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } thead th { color: var(--quiet); font-weight: 600;
  vertical-align: bottom; }
thead th, tbody.rows th { overflow-wrap: normal; }
thead small { display: block; font-weight: 400; }
td.state { white-space: nowrap; font-weight: 600; } tbody.rows th { color: var(--text); font-weight: 600; width: auto; }
.equal .state { color: var(--good); } .different .state, .failed .state, .out { color: var(--bad); } .refused, .not-installed { color: var(--quiet); }
.gauge { display: block; position: relative; height: 5px; width: 84px; margin-top: 4px; border-radius: 3px; background: var(--line); }
.gauge i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--good); } .out .gauge i { background: var(--bad); }
.gauge b { position: absolute; top: -2px; bottom: -2px; width: 2px; background: var(--text); }
tr.why td { border-top: 0; padding-top: 0; font-size: .87rem; } tr.first > * { border-bottom: 0; } .control { color: var(--quiet); }
.steps td, .steps th { padding: 3px 10px; } details details { margin: 8px 0; } details details summary { font-size: 1rem; margin: 8px 0; font-weight: 400; }
"""
LOW = -9.0
"""log10 at the left end of a gauge; its right end is at 0."""


def page(document: Mapping[str, Any]) -> str:
    """The page for what `record.document` returned."""
    optimizers = list(document["optimizers"])
    word = document["verdict"]
    reasons = "".join(f"<p>{escape(line)}</p>" for line in document["reasons"])
    rows = [_row("one process, regrouped", {**document["control"], "strategy": "control"}, document, " control")]
    rows += [_row(row["strategy"], row, document, "") for row in document["rows"]]
    bands = [
        f"<th>loss<small>band {document['loss_band']:.0e}</small></th><th>gradient norm<small>band {document['grad_norm_band']:.0e}</small></th>",
        *(f"<th>parameters, {escape(name)}<small>band {item['parameter_band']:.0e}</small></th>" for name, item in document["optimizers"].items()),
    ]
    resumed = bool(document["resume_at"])
    bands += [f"<th>{escape(title)}<small>step {document['resume_at']}</small></th>" for title in RESUMED if resumed]
    facts = "".join(f"<li>{escape(line)}</li>" for line in said(document))
    details = "".join(_steps(row, optimizers) for row in [document["control"], *document["rows"]] if row["optimizers"])
    traces = "".join(
        f"<details><summary>{escape(row['strategy'])} on {row['ranks']}: output</summary><pre>{escape(row['trace'])}</pre></details>"
        for row in document["rows"]
        if row["trace"]
    )
    head = f"<tr><th>strategy</th><th>ranks</th>{''.join(bands)}<th>verdict</th><th>seconds</th></tr>"
    body = f"""
<h1>Proof of the strategies</h1><p class="lead">Each strategy against one process: the same model, data and initial values.
Greatest relative difference over steps and tensors; a bar is logarithmic, from 1e-9 to 1, and its mark is the band.</p>
<div class="verdict {escape(word)}">{SIGNS[word]} {escape(sentence(document))}{reasons}</div>
<h2>Table</h2><div class="scroll"><table><thead>{head}</thead><tbody class="rows">{"".join(rows)}</tbody></table></div>
<h2>What was compared</h2><ul>{facts}</ul>
{_table("Versions", document["versions"])}{_table("Data", document["data"])}
<details><summary>Every step</summary>{details}</details>
{f"<details open><summary>Failures</summary>{traces}</details>" if traces else ""}
<details><summary>Config of the one process</summary><pre>{escape(yaml.safe_dump(document["config"], sort_keys=False))}</pre></details>"""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Proof: {escape(word)}</title><link rel="icon" href="data:,"><style>{STYLE}{MORE_STYLE}</style></head>\n'
        f"<body><main>{body}</main></body></html>\n"
    )


def _row(title: str, row: Mapping[str, Any], document: Mapping[str, Any], kind: str) -> str:
    status = row["status"]
    name = status.replace(" ", "-") + kind
    every = list(row["optimizers"].values())
    empty = ["<td></td>" for _ in RESUMED if document["resume_at"]]
    columns = ["<td></td>"] * (2 + len(document["optimizers"]))
    if every:
        same = all(apart["bit_equal"] for apart in every)
        columns = [
            _measure([apart["loss"] for apart in every], document["loss_band"], same),
            _measure([apart["grad_norm"] for apart in every], document["grad_norm_band"], same),
        ]
        for optimizer, apart in row["optimizers"].items():
            columns.append(_measure([apart["parameters"]], document["optimizers"][optimizer]["parameter_band"], apart["bit_equal"], apart["worst"]))
    columns += _resumed(row["resumed"], document) if row["resumed"] else empty
    seconds = f"{row['seconds']:.1f}" if row["seconds"] else ""
    state = f'<td class="state">{SIGNS[status]} {escape(status)}</td><td class="number">{seconds}</td>'
    first = f'<tr class="{escape(name)}{" first" if row["reason"] else ""}"><th>{escape(title)}</th><td>{row["ranks"]}</td>{"".join(columns)}{state}</tr>'
    return first + (f'<tr class="why {escape(name)}"><td colspan="{len(columns) + 4}">{escape(row["reason"])}</td></tr>' if row["reason"] else "")


def _resumed(resumed: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    band = max(document["optimizers"][name]["parameter_band"] for name in resumed)
    every = list(resumed.values())
    crossed = [item["crossed"] for item in every]
    own = all(item["own_bit_equal"] for item in every)
    return [
        _measure([item["saved"] for item in every], band, False),
        f'<td class="number{"" if own else " out"}">{"bit-equal" if own else "different"}</td>',
        _measure([apart["parameters"] for apart in crossed], band, all(apart["bit_equal"] for apart in crossed)),
    ]


def _measure(values: Sequence[float | None], band: float, same_bits: bool, where: str = "") -> str:
    """A table cell: the greatest of `values` (None is infinite) with its gauge. What is outside says so in words too."""
    if same_bits:
        return '<td class="number">bit-equal</td>'
    greatest = max(math.inf if value is None else value for value in values)
    out = greatest > band
    said_number = "infinite" if math.isinf(greatest) else f"{greatest:.1e}" if greatest else "0"
    title = f' title="{escape(where)}"' if where else ""
    gauge = f'<span class="gauge"><i style="width:{_place(greatest):.1f}%"></i><b style="left:{_place(band):.1f}%"></b></span>'
    return f'<td class="number{" out" if out else ""}"{title}>{said_number}{" outside" if out else ""}{gauge}</td>'


def _place(value: float) -> float:
    """Per cent of a gauge's width."""
    return 100.0 * min(1.0, max(0.0, 1 - math.log10(min(value, 1.0)) / LOW)) if value > 0 else 0.0


def _steps(row: Mapping[str, Any], optimizers: Sequence[str]) -> str:
    """A table of one row's differences in every step."""
    count = len(row["optimizers"][optimizers[0]]["steps"])
    head = "".join(f"<th>{step}</th>" for step in range(1, count + 1))
    lines = []
    for optimizer, apart in row["optimizers"].items():
        for key, word in (("loss", "loss"), ("grad_norm", "gradient norm"), ("parameters", "parameters")):
            numbers = "".join(
                f'<td class="number">{"infinite" if step[key] is None else f"{step[key]:.0e}" if step[key] else "0"}</td>' for step in apart["steps"]
            )
            lines.append(f"<tr><th>{escape(optimizer)}, {word}</th>{numbers}</tr>")
    title = f"{escape(row['strategy'])} on {row['ranks']}"
    table = f'<table class="steps"><thead><tr><th>step</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<details><summary>{title}</summary><div class="scroll">{table}</div></details>'


def _table(title: str, values: Mapping[str, Any]) -> str:
    lines = "".join(f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>" for key, value in values.items())
    return f"<details><summary>{escape(title)}</summary><table><tbody>{lines}</tbody></table></details>"
