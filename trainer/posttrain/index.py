"""RUN_DIR/compressed/index.html: all compressions of one run beside each other, and which of them nothing else beats."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainer.posttrain.chains import COMPRESSED, INDEX, Chain, chains, front
from trainer.posttrain.pictures import Point, scatter
from trainer.posttrain.report import REPORT, document
from trainer.units import count, size
from trainer.writing import write_whole


def write(run_dir: Path) -> Path:
    """Write the page of `run_dir`, and return its path."""
    path = run_dir / COMPRESSED / INDEX
    write_whole(path, page(run_dir.resolve().name, chains(run_dir)))
    return path


def page(name: str, found: Sequence[Chain]) -> str:
    """The page. What was measured by another metric, on other samples or from another checkpoint is a table of its own."""
    sections = [f"<h1>{html.escape(name)}: {len(found)} compressed model{'s'[: len(found) != 1]}</h1>"]
    for _, of_kind in groupby(sorted(found, key=_kind), key=_kind):
        sections += _section(list(of_kind))
    return document(f"{name}: compressed models", sections)


def _kind(chain: Chain) -> tuple[Any, ...]:
    found = chain.found
    return found["from"], found["quality"], found["higher_is_better"], found["samples"], chain.quality("before")


def _section(found: list[Chain]) -> list[str]:
    first = found[0].found
    quality, sign = first["quality"], -1 if first["higher_is_better"] else 1
    batches = [batch for batch in first["before"].get("latency", {}) if all(batch in one.found["before"].get("latency", {}) for one in found)]
    axes = {"weights on disk": [float(first["before"]["disk_bytes"]), *(float(one.found["after"]["disk_bytes"]) for one in found)]}
    axes |= {f"latency, batch {batch}": [1.0, *(_slower(one.found, batch) for one in found)] for batch in batches}
    qualities = [found[0].quality("before"), *(one.quality() for one in found)]
    best = {what: front([(value, sign * y) for value, y in zip(values, qualities, strict=True)]) for what, values in axes.items()}
    labels = ["before", *(str(number) for number in range(1, len(found) + 1))]
    links = [None, *(f"{quote(one.name)}/{REPORT}" for one in found)]
    told = ["before compression", *(one.title() for one in found)]
    drawn = []
    for what, values in axes.items():
        points = [Point(*each) for each in zip(labels, values, qualities, best[what], told, links, strict=True)]
        on_disk = what == "weights on disk"
        below = what if on_disk else f"{what}: median, model before = 1"
        drawn.append(scatter(f"{quality} against {what}", points, _bytes if on_disk else _number, _number, below))
    better = "higher" if first["higher_is_better"] else "lower"
    return [
        f'<p class="lead">from {html.escape(first["from"])} · {html.escape(quality)} ({better} is better) on {first["samples"]:,} samples</p>',
        f'<div class="charts">{"".join(drawn)}</div>',
        '<p class="note">Filled and joined: the Pareto front, where no other is better in both (intervals aside). Latency: in turns with the model before.</p>',
        _table(found, first["before"], batches, best),
    ]


def _table(found: list[Chain], before: Mapping[str, Any], batches: list[str], best: Mapping[str, list[bool]]) -> str:
    quality = found[0].found["quality"]
    head = [
        "",
        "methods",
        quality,
        "worse by",
        "on disk",
        "in memory",
        "parameters not zero",
        "MACs",
        *(f"latency, batch {b}" for b in batches),
        "on the front of",
    ]
    body = [["before", "", before, "", "", [f"{before['latency'][batch]['median'] * 1e3:.3g} ms" for batch in batches]]]
    for number, one in enumerate(found, 1):
        times = [f"{one.found['after']['latency'][b]['median'] * 1e3:.3g} ms, {_slower(one.found, b):.3g} x" for b in batches]
        body.append([str(number), one.title(), one.found["after"], f"{one.found['quality_loss']:.2%}", f"{quote(one.name)}/{REPORT}", times])
    rows = []
    for i, (label, methods, figures, worse, link, times) in enumerate(body):
        fronts = [what for what in best if best[what][i]]
        named = f'<a href="{html.escape(link)}">{html.escape(methods)}</a>' if link else html.escape(methods)
        estimate = figures["metrics"][quality]
        plain = [
            f"{estimate['value']:.5g} ({estimate['low']:.5g} to {estimate['high']:.5g})",
            worse,
            size(figures["disk_bytes"]),
            size(figures["memory_bytes"]),
            f"{figures['nonzero_parameters']:,}",
            count(figures["macs"], " ") + (" and more" if figures["macs_leave_out"] else ""),
            *times,
            "; ".join(fronts),
        ]
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in plain)
        rows.append(f'<tr{" class=best" if fronts else ""}><th scope="row">{label}</th><td>{named}</td>{cells}</tr>')
    top = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    return f'<div class="scroll"><table class="index"><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _slower(found: Mapping[str, Any], batch: str) -> float:
    return found["after"]["latency"][batch]["median"] / found["before"]["latency"][batch]["median"]


def _bytes(value: float) -> str:
    return size(int(value))


def _number(value: float) -> str:
    return f"{value:.4g}"
