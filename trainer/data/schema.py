"""What a table must hold: inferred once from a table, kept as a YAML file that people may edit, and enforced on every table after it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.cache import digest, unreadable
from trainer.data.survey import ColumnFacts
from trainer.data.table import Batch, batches, kinds
from trainer.errors import ConfigError

FORMAT = 1
KINDS = ("integer", "number", "time", "category", "text")
FIRST = 3  # places that are named of each finding
_HEAD = """\
# What the columns of {path} hold. Enforced by data.schema=THIS_FILE and by: python -m trainer.data validate
# Edit it: a rule that is left out (min, max, categories) is not checked. unknown_columns: refuse or allow.
"""


@dataclass(frozen=True)
class ColumnRule:
    """What the cells of one column must be."""

    type: str
    missing: bool = False
    """Whether cells may be empty."""
    min: float | None = None
    max: float | None = None
    categories: list[str] | None = None

    @property
    def is_number(self) -> bool:
        return self.type in ("integer", "number")


@dataclass(frozen=True)
class Schema:
    """Rules by column name, in the table's order."""

    columns: dict[str, ColumnRule]
    unknown_columns: str = "refuse"

    def plain(self) -> dict[str, Any]:
        """As plain values, rules that are not given left out."""
        columns = {
            name: {key: value for key, value in vars(rule).items() if value is not None and not (key == "missing" and not value)}
            for name, rule in self.columns.items()
        }
        return {"format": FORMAT, "unknown_columns": self.unknown_columns, "columns": columns}

    def digest(self) -> str:
        """sha256 (hex) of the rules, however the file is laid out."""
        return digest(self.plain())


@dataclass
class Finding:
    """One kind of disagreement of one column."""

    column: str
    wrong: str
    """What is wrong, e.g. "is not a number"."""
    right: str
    """What would be right."""
    count: int = 0
    """Cells; 0 where the column as a whole is meant."""
    first: list[tuple[int, str | None]] = field(default_factory=list)
    """(row from 0, cell) of the first."""

    def lines(self, path: Path) -> str:
        """For people: rows count from 1, the header not included."""
        if not self.first:
            return f"{path}: column {self.column!r} {self.wrong}; {self.right}"
        cells = ", ".join(f"row {row + 1}" + ("" if cell is None else f": {cell!r}") for row, cell in self.first)
        more = f" and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        return f"{path}: column {self.column!r}, {cells}{more}: {self.wrong}; {self.right}"


@dataclass
class Checked:
    """A table held against a schema."""

    path: Path
    rows: int = 0
    bad_rows: int = 0
    """Rows with at least one bad cell."""
    findings: list[Finding] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line for each finding."""
        return [finding.lines(self.path) for finding in self.findings]


def infer(facts: Sequence[ColumnFacts]) -> Schema:
    """The rules that a table of these facts keeps, but for its text among numbers and its infinities."""

    def rule(column: ColumnFacts) -> ColumnRule:
        missing = column.missing > 0
        if column.is_number:
            limit = int if column.kind == "integer" else float
            low, high = (limit(column.low), limit(column.high)) if column.numbers else (None, None)
            return ColumnRule(column.kind, missing, low, high)
        return ColumnRule(column.kind, missing, categories=sorted(column.counts) if column.kind == "category" and column.counts is not None else None)

    return Schema({column.name: rule(column) for column in facts})


def save(schema: Schema, path: Path, source: Path) -> None:
    """Write the file.

    Raises:
        ConfigError: it cannot be written.
    """
    import yaml

    from trainer.writing import write_whole

    text = yaml.safe_dump(schema.plain(), sort_keys=False, allow_unicode=True, width=150, default_flow_style=None)
    try:
        write_whole(path, _HEAD.format(path=source.name) + text)
    except OSError as error:
        raise ConfigError(f"{path}: the schema cannot be written: {error.strerror}; say where with data.schema=FILE") from error


def load(path: Path) -> Schema:
    """Read the file.

    Raises:
        ConfigError: it is not there, or is no schema (names the column and key).
    """
    import yaml

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"data.schema={path}: {unreadable(path, error)}; python -m trainer.data validate writes one") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.schema={path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, Mapping) or not isinstance(plain.get("columns"), Mapping):
        raise ConfigError(f"data.schema={path}: has no columns; right would be a file that python -m trainer.data validate has written")
    _known(path, "", plain, ("format", "unknown_columns", "columns"))
    if plain.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"data.schema={path}: format: {plain['format']} is not known here; right would be {FORMAT}")
    unknown = plain.get("unknown_columns", "refuse")
    if unknown not in ("refuse", "allow"):
        raise ConfigError(f"data.schema={path}: unknown_columns: {unknown}: must be refuse or allow")
    return Schema({str(name): _rule(path, name, rule) for name, rule in plain["columns"].items()}, unknown)


def _rule(path: Path, name: str, plain: Any) -> ColumnRule:
    where = f"columns.{name}."
    if not isinstance(plain, Mapping) or plain.get("type") not in KINDS:
        raise ConfigError(f"data.schema={path}: {where}type: must be one of {', '.join(KINDS)}")
    _known(path, where, plain, ("type", "missing", *({"category": ("categories",), "text": (), "time": ()}.get(plain["type"], ("min", "max")))))
    for key in ("min", "max"):
        if not isinstance(plain.get(key, 0), (int, float)) or isinstance(plain.get(key), bool):
            raise ConfigError(f"data.schema={path}: {where}{key}: {plain[key]!r} is not a number")
    if not isinstance(plain.get("missing", False), bool):
        raise ConfigError(f"data.schema={path}: {where}missing: {plain['missing']!r}: must be true (cells may be empty) or false")
    for category in plain.get("categories") or []:
        if not isinstance(category, str):
            raise ConfigError(f"data.schema={path}: {where}categories: {category!r} is not text; write it in quotes")
    return ColumnRule(**plain)


def _known(path: Path, where: str, plain: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in plain:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1)
            raise ConfigError(
                f"data.schema={path}: unknown key '{where}{key}'" + (f"; did you mean '{close[0]}'?" if close else f" (known: {', '.join(keys)})")
            )


def check(schema: Schema, path: Path) -> Checked:
    """Hold every cell of the table at `path` against `schema`, in one pass and in constant memory.

    Raises:
        ConfigError: the file cannot be read.
    """
    checked = Checked(path)
    there = kinds(path)
    checked.findings += [Finding(name, "is absent", f"the schema has it as {schema.columns[name].type}") for name in schema.columns if name not in there]
    if schema.unknown_columns == "refuse":
        unknown = [name for name in there if name not in schema.columns]
        checked.findings += [Finding(name, "is unknown", "leave it out, or say in the schema what it holds, or unknown_columns: allow") for name in unknown]
    rules = {name: rule for name, rule in schema.columns.items() if name in there}
    found: dict[tuple[str, str], Finding] = {}
    for batch in batches(path, list(rules)):
        bad = np.zeros(batch.rows, bool)
        for name, rule in rules.items():
            for wrong, right, rows in _wrong_cells(rule, batch, name):
                if rows.any():
                    bad |= rows
                    finding = found.setdefault((name, wrong), Finding(name, wrong, right))
                    finding.count += int(rows.sum())
                    first = np.flatnonzero(rows)[: FIRST - len(finding.first)]
                    finding.first += zip((batch.first + first).tolist(), batch.texts(name, first), strict=True)
        checked.rows += batch.rows
        checked.bad_rows += int(bad.sum())
    order = {name: place for place, name in enumerate(rules)}
    checked.findings += sorted(found.values(), key=lambda finding: order[finding.column])
    return checked


def _wrong_cells(rule: ColumnRule, batch: Batch, name: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """(what is wrong, what would be right, (rows,) where): each cell is wrong in one way at most."""
    empty = batch.empty(name)
    if not rule.missing:
        yield "is empty", "every row needs a value here", empty
    if rule.is_number:
        values = batch.parsed(name)
        yield "is not a number", f"right would be {_numbers(rule)}", np.isnan(values) & ~empty
        yield "is infinite", f"right would be {_numbers(rule)}", np.isinf(values)
        values = np.where(np.isfinite(values), values, np.nan)
        fraction = (rule.type == "integer") & ~np.isnan(values) & (values != np.floor(values))
        yield "is no integer", f"right would be {_numbers(rule)}", fraction
        low, high = -np.inf if rule.min is None else rule.min, np.inf if rule.max is None else rule.max
        yield "is out of range", f"right would be {_numbers(rule)}", ~fraction & ((values < low) | (values > high))
    elif rule.type == "time":
        yield "is no time", "right would be a date or a time such as 2024-01-31 or 2024-01-31T12:30:00", ~batch.are_times(name)
    elif rule.categories is not None:
        known = set(rule.categories)
        listed = ", ".join(map(repr, rule.categories[:8])) + (", ..." if len(rule.categories) > 8 else "")
        places, names = batch.categories(name)
        unknown = np.append([one not in known for one in names], False).astype(bool)[places]  # place -1, an empty cell, is the last
        yield "is no known category", f"right would be one of {listed}", unknown


def _numbers(rule: ColumnRule) -> str:
    kind = "an integer" if rule.type == "integer" else "a number"
    if rule.min is None and rule.max is None:
        return kind
    if rule.max is None:
        return f"{kind} of at least {rule.min}"
    return f"{kind} of at most {rule.max}" if rule.min is None else f"{kind} from {rule.min} to {rule.max}"


def enforce(schema: Schema, path: Path) -> None:
    """Refuse a table that is not as `schema` says.

    Raises:
        ConfigError: counts the bad rows and names the first cells of each kind.
    """
    checked = check(schema, path)
    if checked.findings:
        lines = checked.lines()
        more = [f"... and {len(lines) - 10} more"] if len(lines) > 10 else []
        told = f"{checked.bad_rows:,} of {checked.rows:,} rows are" if checked.bad_rows else "the table is"
        raise ConfigError("\n  ".join([f"{path}: {told} not as data.schema says", *lines[:10], *more]))
