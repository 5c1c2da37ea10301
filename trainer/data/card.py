"""python -m trainer.data card data=tabular data.path=FILE data.target=COLUMN [key=value ...]: what the data is, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import commands
from trainer.data.card_text import Grid, Section, html, markdown
from trainer.data.examine import Examined, ExamineOptions, examine
from trainer.data.lineage import file_sha256
from trainer.data.survey import ColumnFacts
from trainer.data.tabular import Tabular
from trainer.errors import ConfigError
from trainer.units import size
from trainer.writing import write_whole

HELP = """Write FILE.card.md and FILE.card.html: source and licence, columns, classes, splits, checks, fingerprint and lineage.

Options of this command beside those of python -m trainer:
  card.out=DIR               where (default: beside FILE)
  card.licence=TEXT          of the data (default: what python -m trainer.fetch has written beside it)
  card.threshold, card.errors as those of python -m trainer.data validate"""

_TOP = 5  # categories that are named


@dataclass
class CardOptions(ExamineOptions):
    """Where to, and what the file does not say."""

    out: str | None = None
    """A directory; null: that of the table."""
    licence: str | None = None
    """Of the data; null: as asset.json beside it says."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    return commands.run(arguments, "card", CardOptions, HELP, card)


def card(knobs: Tabular, options: CardOptions) -> int:
    """Examine the table and write both files.

    Raises:
        ConfigError: the table cannot be read, or the files not be written.
    """
    options.check("card")
    path = Path(knobs.path)
    directory = path.parent if options.out is None else Path(options.out)
    result = examine(knobs, options)
    title, parts = f"Data card: {path.name}", sections(knobs, options, result)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for suffix, text in (("md", markdown(title, parts)), ("html", html(title, parts))):
            place = directory / f"{path.name}.card.{suffix}"
            write_whole(place, text)
            print(place)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}; say where with card.out=DIR") from error
    return 0


def sections(knobs: Tabular, options: CardOptions, result: Examined) -> list[Section]:
    """What the card says, in order."""
    lineage = result.splits["train"].describe()["lineage"] if result.splits else None
    return [
        Section("Source", _source(knobs, options, result)),
        Section("Columns", _columns(knobs, result), f"Rules: {result.schema_path.name}, digest {result.rules.digest()[:12]}"),
        Section("Splits", _splits(knobs, result)),
        Section("Checks", Grid(("check", "result", "what was found"), [(one.check, one.level, one.text) for one in result.told], states=1)),
        Section("What single columns foretell", _alone(result), "On rows of the training split; the area under the ROC curve, of numbers R2."),
        Section("Lineage", _lineage(result, lineage)),
    ]


def _source(knobs: Tabular, options: CardOptions, result: Examined) -> Grid:
    rows = []
    for checked in result.checked:
        asset = _asset(checked.path)
        rows += [
            ("file", str(checked.path)),
            ("content", f"{checked.rows:,} rows, {size(checked.path.stat().st_size)}, sha256 {file_sha256(checked.path)}"),
            ("licence", options.licence or asset.get("licence", "not known; card.licence=TEXT says it")),
        ]
        rows += [(key, asset[name]) for key, name in (("title", "title"), ("from", "source"), ("package", "package")) if name in asset]
    return Grid(("", ""), [*rows, ("target", f"{knobs.target} ({knobs.task.name})")])


def _asset(path: Path) -> dict[str, Any]:
    """What `python -m trainer.fetch` wrote beside a file."""
    place = path.parent / "asset.json"
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: cannot be read as what python -m trainer.fetch writes: {error}") from error


def _columns(knobs: Tabular, result: Examined) -> Grid:
    def role(name: str) -> str:
        if name == knobs.target:
            return "target"
        if name in knobs.features or (not knobs.features and name not in (knobs.group, knobs.time)):
            return "feature"
        return "splits by it" if name in (knobs.group, knobs.time) else "not used"

    rows = []
    for column in result.facts:
        rule = result.rules.columns.get(column.name)
        share = column.missing / column.rows
        missing = f"{column.missing:,} ({share:.1%})" if column.missing else "0"
        rows.append((column.name, role(column.name), "not in the schema" if rule is None else rule.type, missing, _values(column)))
    return Grid(("column", "role", "type", "missing", "values"), rows)


def _values(column: ColumnFacts) -> str:
    if column.is_number:
        spoiled = "".join(f", {many:,} {what}" for many, what in ((column.texts, "not numbers"), (column.infinite, "infinite")) if many)
        return (f"{column.low:.6g} to {column.high:.6g}, mean {column.mean:.6g}" if column.numbers else "none") + spoiled
    if column.kind != "category" or column.counts is None:
        return "dates or times" if column.kind == "time" else "text"
    top = sorted(column.counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{name} {count:,} ({count / column.rows:.1%})" for name, count in top[:_TOP])
    return named + (f", and {len(top) - _TOP:,} more" if len(top) > _TOP else "")


def _splits(knobs: Tabular, result: Examined) -> Grid:
    if not result.splits:
        return Grid(("", ""), [("none", "the samples cannot be made; see the checks")])
    names = result.splits["train"].describe().get("class_names") or []
    rows = []
    for split, samples in result.splits.items():
        if names:
            counts = np.bincount(samples.labels, minlength=len(names)).tolist()
            rows += [(split, f"{knobs.target}: {name}", f"{count:,}", f"{count / len(samples):.2%}") for name, count in zip(names, counts, strict=True)]
        else:
            low, mean, high = samples.labels.min(), samples.labels.mean(dtype=np.float64), samples.labels.max()
            rows.append((split, f"{knobs.target}: {low:.6g} to {high:.6g}, mean {mean:.6g}", f"{len(samples):,}", ""))
    return Grid(("split", "rows of", "rows", "share"), rows)


def _alone(result: Examined) -> Grid:
    return Grid(("column", "score"), [(one.column, f"{one.score:.4f}" + (" (the target itself)" if one.copy else "")) for one in result.alone[:10]])


def _lineage(result: Examined, lineage: dict[str, Any] | None) -> Grid:
    if lineage is None:
        return Grid(("", ""), [("none", "the samples cannot be made; see the checks")])
    rows = [(f"fingerprint, {split}", samples.fingerprint) for split, samples in result.splits.items()]
    rows += [("split", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in lineage["split"].items()))]
    rows += [(f"step {number}", step) for number, step in enumerate(lineage["transforms"], 1)]
    rows += [
        ("schema enforced", lineage["schema"] or "no; held against it in the checks"),
        ("made with", ", ".join(f"{key} {value}" for key, value in lineage["versions"].items())),
    ]
    return Grid(("", ""), rows)
