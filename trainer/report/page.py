"""report.html: one self-contained file, a pure function of a run directory."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from trainer.assess import page as assess_page
from trainer.callbacks.record import REPORT, read_record
from trainer.explain.report import section
from trainer.export import told
from trainer.export.told import exports
from trainer.ledger import PARTS, Totals, total
from trainer.ledger import read as read_ledger
from trainer.posttrain.chains import COMPRESSED, INDEX, Chain, chains
from trainer.report.curves import Series, chart, level
from trainer.report.style import SCRIPT, STYLE
from trainer.report.summary import Summary, summarise
from trainer.units import count, duration, printable, share, size
from trainer.writing import write_whole

STATUS = {
    "finished": "finished",
    "stopped": "stopped, resumable",
    "preempted": "stopped before its last evaluation, resumable",
    "failed": "failed",
    "running": "not ended: still running, or killed",
}


def write(run_dir: Path) -> Path:
    """Write `run_dir`/report.html, whole or not at all, and return its path.

    Works on a finished, stopped, failed or running run.

    Raises:
        ConfigError: `run_dir` holds no metrics.jsonl.
        RunError: a line in the middle of a file is broken.
    """
    config = run_dir / "config.yaml"
    config_text = config.read_text(encoding="utf-8") if config.is_file() else ""
    time, made = total(read_ledger(run_dir)), (chains(run_dir), exports(run_dir), [assess_page.section(run_dir), section(run_dir)])
    text = page(run_dir.resolve().name, config_text, read_record(run_dir), summarise(run_dir), time, *made)
    path = run_dir / REPORT
    write_whole(path, text)
    return path


def page(
    name: str,
    config: str,
    record: Mapping[str, Any],
    summary: Summary,
    time: Totals,
    compressed: Sequence[Chain] = (),
    exported: Mapping[str, Any] | None = None,
    more: Sequence[str] = (),
) -> str:
    """The page, from the text of config.yaml (may be empty), run.json (may be empty), the numbers, the ledger, and what was made of the model.

    more: sections, in HTML, of what else was found of the model.
    """
    run = record.get("run", {})
    facts = record.get("facts", {})
    status = record.get("status", "")
    lead = [STATUS.get(status, "status not recorded")]
    if run:
        lead.append(f"{run['strategy']} on {run['world_size']} x {run['device']}")
        lead.append(f"{run['model']}, {run['parameters']:,} parameters")
    if record.get("started"):
        lead.append(f"started {_time(record['started'])}" + (f", ended {_time(record['ended'])}" if record.get("ended") else ""))
    sections = [
        f'<h1>{_escape(name)}</h1><p class="lead"><span class="status {_escape(status)}">{_escape(lead[0])}</span> · {_escape(" · ".join(lead[1:]))}</p>',
        *more,
        tiles(run, summary, time),
        f'<h2>Curves</h2><div class="charts">{charts(config, run, summary)}</div>' if summary.steps else "<p>No step was recorded.</p>",
    ]
    if facts.get("sample"):
        sections.append(f'<h2>Sample of generated text</h2><pre class="sample">{_escape(printable(facts["sample"]))}</pre>')
    sections += [compressions(compressed), exports_table(exported or {})]
    tables = [
        ledger(time),
        table("Run", {key: value for key, value in run.items() if key not in ("data", "strategy", "model", "parameters", "device")}),
        table("Data", {key: value for key, value in run.get("data", {}).items() if key != "lineage"}),
        table("Where the data comes from", run.get("data", {}).get("lineage") or {}),
        table("Hardware", record.get("hardware", {})),
        table("Versions", record.get("versions", {})),
        table("Facts at the end", {key: value for key, value in facts.items() if key != "sample"}),
    ]
    sections.append(f'<div class="tables">{"".join(tables)}</div>')
    sections.append(sessions(record.get("sessions", [])))
    if config:
        sections.append(f"<details open><summary>config.yaml</summary><pre>{_escape(config)}</pre></details>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_escape(name)}: training report</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>{chr(10).join(sections)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def tiles(run: Mapping[str, Any], summary: Summary, time: Totals) -> str:
    """The numbers to see first."""
    entropy = run.get("data", {}).get("unigram_entropy")
    unit = "" if entropy is None else " nats"
    against = "" if entropy is None else f"unigram entropy of the data {entropy:.4f}{unit}"
    of = f"of {run['max_steps']:,}" if run else ""
    shown = [("Steps", f"{summary.last:,}", of), ("Tokens", f"{summary.tokens:,}", "")]
    if summary.loss is not None:
        shown.append(("Train loss", f"{summary.loss:.4f}{unit}", f"mean of the last {len(summary.recent)} steps; {against}".rstrip("; ")))
    for key, value in summary.last_eval.items():
        if key != "step" and value is not None:
            shown.append((f"Eval {key}", f"{value:.4f}{unit if key == 'loss' else ''}", f"after step {summary.last_eval['step']:,}"))
    if summary.tokens_per_second is not None:
        shown.append(("Tokens per second", count(summary.tokens_per_second), "all processes, mean over time"))
        shown.append(("Time in steps", duration(summary.seconds), f"{summary.data_seconds / summary.seconds:.1%} of it waiting for data"))
    if time.starts:
        shown.append(("Effective training time", f"{time.effective:.1%}", f"of {duration(time.wall)} over {time.starts} start{'s'[: time.starts > 1]}"))
    if summary.mfu is not None:
        shown.append(("MFU", f"{summary.mfu:.1%}", "model FLOP utilisation, mean over time"))
    shown.append(("Peak memory", size(summary.memory_bytes), "rank 0"))
    if summary.skipped:
        shown.append(("Steps skipped", f"{summary.skipped:,}", "loss or gradient norm not finite: nothing moved"))
    items = "".join(f"<div><dt>{_escape(key)}</dt><dd>{_escape(value)}<small>{_escape(note)}</small></dd></div>" for key, value, note in shown)
    return f'<dl class="tiles">{items}</dl>'


def charts(config: str, run: Mapping[str, Any], summary: Summary) -> str:
    """Loss, gradient norm, learning rate, throughput, memory, time of a step; what the model adds to evaluations."""
    curves, steps = summary.curves, (summary.first, summary.last)
    entropy = run.get("data", {}).get("unigram_entropy")
    max_norm = ((yaml.safe_load(config) or {}).get("optim") or {}).get("max_norm")
    loss = [Series("train", "train", curves["loss"]), Series("eval", "eval", summary.evals.get("loss", []), dots=True)]
    norm = [Series("before clipping", "train", curves["grad_norm"])]
    norms = [value for run_ in curves["grad_norm"] for _, value in run_]
    unit, divisor = ("GiB", 2**30) if summary.memory_bytes >= 2**30 else ("MiB", 2**20)
    memory = [[(step, value / divisor) for step, value in run_] for run_ in curves["memory_bytes"]]
    drawn = [
        chart("Loss", loss + ([level("unigram entropy of the data", entropy, steps)] if entropy else []), _number, wide=True),
        chart("Gradient norm", norm + ([level("clipped to", max_norm, steps)] if max_norm else []), _number, log=bool(norms) and max(norms) > 50 * min(norms)),
        chart("Learning rate", [Series("rate", "train", curves["lr"])], _number, zero=True),
        chart("Tokens per second", [Series("all processes", "train", curves["tokens_per_second"])], count, zero=True),
        chart(f"Peak memory ({unit})", [Series("rank 0", "train", memory)], _number, zero=True),
        chart(
            "Seconds per step",
            [Series("step", "train", curves["step_seconds"]), Series("waiting for data", "eval", curves["data_seconds"])],
            _number,
            zero=True,
        ),
    ]
    drawn += [chart(f"Eval {key}", [Series("eval", "eval", runs, dots=True)], _number) for key, runs in summary.evals.items() if key != "loss"]
    return "".join(drawn)


def table(title: str, values: Mapping[str, Any]) -> str:
    """Keys and values, or nothing where there are none."""
    rows = "".join(f'<tr><th scope="row">{_label(key)}</th><td>{_escape(_value(key, value))}</td></tr>' for key, value in values.items())
    return f"<section><h2>{_escape(title)}</h2><table><tbody>{rows}</tbody></table></section>" if rows else ""


def ledger(time: Totals) -> str:
    """Where the time went, over all starts."""
    if not time.starts:
        return ""
    values = {PARTS[name]: f"{seconds:,.1f} s, {share(seconds, time.wall)}" for name, seconds in time.seconds.items()}
    values |= {"wall time": f"{time.wall:,.1f} s", "starts": time.starts, "starts that died": time.deaths, "number of steps done twice": time.repeated_steps}
    if time.away:
        values["between a stop and the next start, not counted"] = f"{time.away:,.1f} s"
    return table("Where the time went", values)


def compressions(found: Sequence[Chain]) -> str:
    """Links to the reports of the compressed models, if there are any."""
    if not found:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><a href="{COMPRESSED}/{quote(one.name)}/{REPORT}">{_escape(one.title())}</a></th>'
        f"<td>{_escape(one.found['quality'])} {one.quality('before'):.5g} to {one.quality():.5g}</td>"
        f"<td>{size(one.found['before']['disk_bytes'])} to {size(one.found['after']['disk_bytes'])}</td></tr>"
        for one in found
    )
    return (
        f'<h2>Compressed models</h2><p><a href="{COMPRESSED}/{INDEX}">All of them beside each other</a></p>'
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
    )


def exports_table(found: Mapping[str, Any]) -> str:
    """The exported files, if there are any."""
    if not found:
        return ""
    head = "".join(f'<th scope="col">{_escape(title)}</th>' for title in told.HEAD)
    body = "".join("<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>" for row in told.rows(found))
    return f'<h2>Exported files</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def sessions(starts: list[Mapping[str, Any]]) -> str:
    """How often the run was started, if more than once."""
    if len(starts) < 2:
        return ""
    head = "".join(f'<th scope="col">{_label(key)}</th>' for key in starts[0])
    rows = "".join("<tr>" + "".join(f"<td>{_escape(_value(key, value))}</td>" for key, value in start.items()) + "</tr>" for start in starts)
    return f'<h2>Starts</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _label(key: str) -> str:
    return _escape(key.removesuffix("_bytes").replace("_", " "))


def _value(key: str, value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_value(name, item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(key, item) for item in value)
    if key == "started":
        return _time(value)
    if key.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _time(recorded: str) -> str:
    return f"{datetime.fromisoformat(recorded):%Y-%m-%d %H:%M} UTC"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _escape(value: Any) -> str:
    return html.escape(str(value))
