"""A table held against its schema and searched for leaks: what `validate` says and the data card tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data import leakage, schema
from trainer.data.survey import ColumnFacts, survey
from trainer.data.table_samples import TableSamples
from trainer.data.table_write import check_names
from trainer.data.tabular import Tabular
from trainer.errors import ConfigError

CHECKS = ("schema", "prepared", "constant", "copy", "alone", "duplicates")


@dataclass
class ExamineOptions:
    """How strict it is."""

    threshold: float = 0.99
    """A column that alone reaches this area under the ROC curve (regression: R2) is named."""
    errors: list[str] = field(default_factory=lambda: ["schema", "prepared", "copy"])
    """Checks whose findings are errors (exit status 1); those of the others are warnings."""

    def check(self, command: str) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ConfigError: names the key.
        """
        if not 0.5 < self.threshold <= 1:
            raise ConfigError(f"{command}.threshold={self.threshold}: must be above 0.5 and at most 1")
        for name in self.errors:
            if name not in CHECKS:
                raise ConfigError(f"{command}.errors: there is no check {name!r} (known: {', '.join(CHECKS)})")


@dataclass(frozen=True)
class Told:
    """One result of one check."""

    check: str
    level: str
    """ok, warning or error."""
    text: str


@dataclass
class Examined:
    """All that was found."""

    schema_path: Path
    rules: schema.Schema
    inferred: bool
    """The schema was not there before."""
    facts: list[ColumnFacts]
    """Of the columns of `data.path`."""
    checked: list[schema.Checked]
    """`data.path`, and `data.eval_path` where there is one."""
    splits: dict[str, TableSamples] = field(default_factory=dict)
    """By name; empty where the table could not be prepared."""
    alone: list[leakage.Alone] = field(default_factory=list)
    duplicates: leakage.Duplicates | None = None
    told: list[Told] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(one.level == "error" for one in self.told)


def schema_path(knobs: Tabular) -> Path:
    """`data.schema`, or the file beside the data."""
    return Path(knobs.schema or f"{knobs.path}.schema.yaml")


def examine(knobs: Tabular, options: ExamineOptions) -> Examined:
    """Examine the table of `knobs`; where there is no schema yet it is inferred from `data.path` and written.

    Raises:
        ConfigError: a file that cannot be read, a column that it does not have, a schema that is none.
    """
    place, path = schema_path(knobs), Path(knobs.path)
    check_names(knobs, path)
    facts = survey(path)
    if not facts[0].rows:
        raise ConfigError(f"{path}: has no rows")
    inferred = not place.exists()
    if inferred:
        schema.save(schema.infer(facts), place, path)
    rules = schema.load(place)
    files = [path] if knobs.eval_path is None else [path, Path(knobs.eval_path)]
    result = Examined(place, rules, inferred, facts, [schema.check(rules, file) for file in files])
    try:  # as it is: what is wrong with it has been told
        bare = dataclasses.replace(knobs, schema=None)
        result.splits = {split: bare.open_whole(split) for split in ("train", "eval")}
    except ConfigError as error:
        result.told.append(Told("prepared", _level("prepared", options), f"the samples cannot be made of it: {error}"))
    if result.splits:
        result.alone = leakage.alone(result.splits["train"])
        result.duplicates = leakage.duplicates(result.splits["train"], result.splits["eval"])
    result.told = [*_schema(result, options), *result.told, *_constant(result, knobs, options), *_columns(result, knobs, options), *_rows(result, options)]
    return result


def _level(check: str, options: ExamineOptions) -> str:
    return "error" if check in options.errors else "warning"


def _schema(result: Examined, options: ExamineOptions) -> Iterator[Told]:
    for checked in result.checked:
        if not checked.findings:
            yield Told("schema", "ok", f"{checked.path}: {checked.rows:,} rows are as the schema says")
            continue
        lines = "\n  ".join(checked.lines())
        yield Told("schema", _level("schema", options), f"{checked.path}: {checked.bad_rows:,} of {checked.rows:,} rows are bad\n  {lines}")


def _constant(result: Examined, knobs: Tabular, options: ExamineOptions) -> Iterator[Told]:
    chosen = knobs.features or [column.name for column in result.facts]
    constant = [column.name for column in result.facts if column.constant and (column.name in chosen or column.name == knobs.target)]
    for name in constant:
        what = "there is nothing to learn" if name == knobs.target else "it tells nothing; leave it out of data.features"
        yield Told("constant", _level("constant", options), f"column {name!r} holds one value only: {what}")
    if not constant:
        yield Told("constant", "ok", "no column holds one value only")


def _columns(result: Examined, knobs: Tabular, options: ExamineOptions) -> Iterator[Told]:
    if not result.splits:
        return
    measure = "an AUC" if "classes" in result.splits["train"].spec else "an R2"
    copies = [one for one in result.alone if one.copy]
    for one in copies:
        yield Told("copy", _level("copy", options), f"column {one.column!r} is the target {knobs.target!r} under another name: a one-to-one function of it")
    if not copies:
        yield Told("copy", "ok", f"no column is the target {knobs.target!r} under another name")
    high = [one for one in result.alone if one.score >= options.threshold and not one.copy]
    for one in high:
        text = f"column {one.column!r} alone foretells the target with {measure} of {one.score:.4f} (threshold {options.threshold:g}): is it known beforehand?"
        yield Told("alone", _level("alone", options), text)
    if not high and not copies:
        best = f"; the best is {result.alone[0].column!r} with {result.alone[0].score:.4f}" if result.alone else ""
        yield Told("alone", "ok", f"no column alone foretells the target with {measure} of {options.threshold:g}{best}")


def _rows(result: Examined, options: ExamineOptions) -> Iterator[Told]:
    found = result.duplicates
    if found is None:
        return
    if not found.count:
        yield Told("duplicates", "ok", f"no row of the eval split ({found.of:,} rows) is in the training split too")
        return
    named = ", ".join(f"row {held_out + 1} of {result.splits['eval'].source} is row {trained + 1} of {result.splits['train'].source}"
                      for held_out, trained in found.first)  # fmt: skip
    text = f"{found.count:,} of {found.of:,} rows of the eval split are in the training split too ({found.count / found.of:.1%}): {named}"
    yield Told("duplicates", _level("duplicates", options), text + (", ..." if found.count > len(found.first) else ""))
