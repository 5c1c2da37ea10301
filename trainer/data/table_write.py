"""A table made into float32 rows and labels: one pass to fit, one to write, both in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import lineage, schema, splits
from trainer.data.shards import entropy
from trainer.data.survey import as_numbers, text_among_numbers
from trainer.data.table import Batch, batches, kinds
from trainer.data.tabular import Encoding, Missing, Tabular, Task, Unseen
from trainer.errors import ConfigError

MOST_ONEHOT = 10_000
"""Categories of one column that may become features."""
_LARGEST = 1e150  # its square is a float64 still


@dataclass
class Column:
    """One column and what was fitted on its training rows."""

    name: str
    is_number: bool
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    empty: int = 0
    """Empty cells, of all rows."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each category occurs."""

    def fit(self, batch: Batch, chosen: np.ndarray) -> None:
        """Take in the rows of `batch` that are `chosen`."""
        if self.is_number:
            values = batch.numbers(self.name)
            if (huge := np.abs(values) > _LARGEST).any():
                row = int(huge.argmax())
                raise ConfigError(f"{batch.where(self.name, row)}: {values[row]:g} is too large to compute with; mend it, or leave the column out")
            self.empty += int(np.isnan(values).sum())
            self._fit_numbers(values[chosen & ~np.isnan(values)])
            return
        places, names = batch.categories(self.name)
        places = places[chosen & (places >= 0)]
        for name, count in zip(names, np.bincount(places, minlength=len(names)).tolist(), strict=True):
            if count:
                self.counts[name] = self.counts.get(name, 0) + count

    def _fit_numbers(self, values: np.ndarray) -> None:
        """Mean and squares of two sets joined (Chan, Golub and LeVeque 1979)."""
        if not len(values):
            return
        mean, total = values.mean(), self.count + len(values)
        step = mean - self.mean
        self.squares += ((values - mean) ** 2).sum() + step**2 * self.count * len(values) / total
        self.mean += step * len(values) / total
        self.count = total

    def scale(self) -> float:
        """The standard deviation; 1 for a column that is constant."""
        deviation = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return deviation if deviation > 1e-12 * abs(self.mean) else 1.0

    def categories(self) -> list[str]:
        """In order: by value if all are numbers, else by name."""
        try:
            return sorted(self.counts, key=float)
        except ValueError:
            return sorted(self.counts)

    def codes(self, batch: Batch, unseen: Unseen | None = None) -> np.ndarray:
        """(rows,) the place of each row's category in `categories`; where `unseen` is zero, one past the last for any other. None: of the target.

        Raises:
            ConfigError: an empty cell, or a category that no training row has.
        """
        places, names = batch.categories(self.name)
        advice = "every row needs a target" if unseen is None else "categories have no mean: fill it, or leave the column out of data.features"
        batch.no_empty(self.name, places < 0, advice)
        known = {name: place for place, name in enumerate(self.categories())}
        codes = np.asarray([known.get(name, len(known)) for name in names] or [0])[places]
        if unseen is not Unseen.zero and (codes == len(known)).any():
            row = int((codes == len(known)).argmax())
            advice = "" if unseen is None else "; data.unseen=zero lets it in as a row that has none of the column's one-hot features"
            raise ConfigError(f"{batch.where(self.name, row)}: the category {names[places[row]]!r} is not in the training split{advice}")
        return codes


def write_table(knobs: Tabular, rules: schema.Schema | None, place: Path) -> dict[str, Any]:
    """Fit and write; returns the index. `rules` is what `knobs.schema` holds.

    Raises:
        ConfigError: content that cannot be used, naming the column and row.
    """
    path = Path(knobs.path)
    evaluated = None if knobs.eval_path is None else Path(knobs.eval_path)
    if rules is not None:
        for file in [path] if evaluated is None else [path, evaluated]:
            schema.enforce(rules, file)
    features, target = _columns(knobs, path)
    names = [column.name for column in (*features, target)]
    if evaluated is not None and (absent := set(names) - set(kinds(evaluated))):
        raise ConfigError(f"{evaluated}: has no column {min(absent)!r}, which {path} has")
    begin, split_rule = splits.rule(knobs, path)
    for batch, is_eval in _rows(begin(), path, evaluated, names, knobs):
        for column in (*features, target):
            column.fit(batch, ~is_eval)
    for column in features:
        _check_categories(knobs, column, path)
    checksum = hashlib.sha256()
    parts = [(split, kind) for split in ("train", "eval") for kind in ("features", "labels", "rows")]
    files = {part: (place / ".".join(part)).open("wb") for part in parts}
    rows = {path: 0} if evaluated is None else {path: 0, evaluated: 0}
    for batch, is_eval in _rows(begin(), path, evaluated, names, knobs):
        arrays = {"features": _features(knobs, features, batch), "labels": _labels(target, batch), "rows": batch.row_numbers()}
        for split, kind in parts:
            data = arrays[kind][is_eval if split == "eval" else ~is_eval].tobytes()
            files[split, kind].write(data)
            if kind != "rows":  # where a sample came from does not change it
                checksum.update(data)
        rows[batch.path] += batch.rows
    for file in files.values():
        file.close()
    numbers = sum(column.is_number for column in features)
    return {
        "files": {name: (place / name).stat().st_size for name in map(".".join, parts)},
        "columns": [list(feature) for column in features for feature in _origins(knobs, column)],
        "preparation": {"columns": [_preparation(knobs, column) for column in features], "target": target.name, "classes": target.categories()},
        "classes": target.categories(),
        "class_entropy": entropy(np.asarray(list(target.counts.values()))) if target.counts else None,
        "sha256": checksum.hexdigest(),
        "lineage": {
            "sources": [lineage.source(file, count) for file, count in rows.items()],
            "split": {"rule": "the eval file"} if evaluated is not None else split_rule,
            "transforms": lineage.transforms(knobs, numbers, len(features) - numbers, {column.name: column.empty for column in features if column.empty}),
            "schema": None if rules is None else rules.digest(),
            "versions": lineage.versions(),
        },
    }


def _check_categories(knobs: Tabular, column: Column, path: Path) -> None:
    """Refuse what would silently become thousands of features.

    Raises:
        ConfigError: text among numbers (names its row), or too many categories.
    """
    if column.is_number or column.name in knobs.categorical:
        return
    values = list(column.counts)
    finite = np.isfinite(as_numbers(values))
    counts = np.asarray(list(column.counts.values()))
    if text_among_numbers(int(counts[~finite].sum()), int(counts[finite].sum()), int(finite.sum())):
        texts = {value for value, is_finite in zip(values, finite, strict=True) if not is_finite}
        for batch in batches(path, [column.name]):
            places, names = batch.categories(column.name)
            wrong = np.append([name in texts for name in names], False)[places]
            if wrong.any():
                row = int(wrong.argmax())
                raise ConfigError(
                    f"{batch.where(column.name, row)}: {names[places[row]]!r} is not a number, and {counts[finite].sum() / counts.sum():.1%} of the column's "
                    f"cells are; mend it, or to take the column as categories: data.categorical=[{column.name}]"
                )
    if len(column.counts) > MOST_ONEHOT and knobs.encoding is Encoding.onehot:
        raise ConfigError(
            f"{path}: column {column.name!r} has {len(column.counts):,} categories, and each would become a feature (at most {MOST_ONEHOT:,}); "
            "leave it out of data.features, or give data.encoding=ordinal"
        )


def check_names(knobs: Tabular, path: Path) -> dict[str, bool]:
    """The columns of the table at `path` and whether each holds numbers (`kinds`), where it has all that the knobs name.

    Raises:
        ConfigError: it has not; names the knob.
    """
    found = kinds(path)
    by = {"target": [knobs.target], "features": knobs.features, "categorical": knobs.categorical, "group": [knobs.group], "time": [knobs.time]}
    for key, names in by.items():
        for name in filter(None, names):
            if name not in found:
                raise ConfigError(f"data.{key}: {path} has no column {name!r}; it has: {', '.join(found)}")
    return found


def _columns(knobs: Tabular, path: Path) -> tuple[list[Column], Column]:
    found = check_names(knobs, path)
    classify = knobs.task is Task.classification
    if not classify and not found[knobs.target]:
        raise ConfigError(f"data.target={knobs.target}: data.task=regression needs numbers, and the column in {path} holds text")
    names = knobs.features or [name for name in found if name not in (knobs.target, knobs.group, knobs.time)]
    if not names:
        raise ConfigError(f"data.features: {path} has no column but the target {knobs.target!r}")
    return [Column(name, found[name] and name not in knobs.categorical) for name in names], Column(knobs.target, not classify)


def _rows(choose: splits.Choose, path: Path, evaluated: Path | None, names: Sequence[str], knobs: Tabular) -> Iterator[tuple[Batch, np.ndarray]]:
    """(batch, (rows,) which rows are for evaluation)."""
    by = splits.column_needed(knobs)
    for batch in batches(path, list(dict.fromkeys([*names, *([by] if by else [])]))):
        yield batch, np.zeros(batch.rows, bool) if evaluated is not None else choose(batch)
    if evaluated is not None:
        for batch in batches(evaluated, names):
            yield batch, np.ones(batch.rows, bool)


def _origins(knobs: Tabular, column: Column) -> list[tuple[str, str | None]]:
    """(column, category) of each feature that `column` becomes."""
    if column.is_number or knobs.encoding is Encoding.ordinal:
        return [(column.name, None)]
    return [(column.name, category) for category in column.categories()]


def _preparation(knobs: Tabular, column: Column) -> dict[str, Any]:
    """What `_features` does to a cell of `column`, as plain values: a number that is empty becomes `fill`, and is then (number - shift) / scale."""
    if not column.is_number:
        return {"name": column.name, "categories": column.categories(), "encoding": knobs.encoding.name, "unseen": knobs.unseen.name}
    shift, scale = (column.mean, column.scale()) if knobs.standardize else (0.0, 1.0)
    return {"name": column.name, "fill": column.mean if knobs.missing.name == "mean" and column.count else None, "shift": shift, "scale": scale}


def _features(knobs: Tabular, columns: Sequence[Column], batch: Batch) -> np.ndarray:
    """(rows, features) float32."""
    parts: list[np.ndarray] = []
    for column in columns:
        if not column.is_number:
            codes = column.codes(batch, knobs.unseen)
            many = len(column.counts)
            parts.append(codes[:, None] if knobs.encoding is Encoding.ordinal else np.eye(many + 1, many, dtype="<f4")[codes])
            continue
        values = batch.numbers(column.name)
        empty = np.isnan(values)
        if knobs.missing is Missing.error:
            batch.no_empty(column.name, empty, "data.missing=mean takes the training split's mean")
        if column.count == 0:
            batch.no_empty(column.name, empty, "no training row has a value to take the mean of; leave the column out of data.features")
        values = np.where(empty, column.mean, values)
        parts.append((((values - column.mean) / column.scale()) if knobs.standardize else values)[:, None])
    with np.errstate(over="ignore"):
        rows = np.concatenate(parts, axis=1).astype("<f4")
    if not np.isfinite(rows).all():
        row, place = (int(found[0]) for found in np.nonzero(~np.isfinite(rows)))
        name = [name for column in columns for name, _ in _origins(knobs, column)][place]
        advice = "leave the column out" if knobs.standardize else "data.standardize=true, or leave the column out"
        raise ConfigError(f"{batch.where(name, row)}: {batch.numbers(name)[row]:g} is too large for float32; {advice}")
    return rows


def _labels(target: Column, batch: Batch) -> np.ndarray:
    """(rows,) int64 classes or float32 numbers."""
    if not target.is_number:
        return target.codes(batch).astype("<i8")
    values = batch.numbers(target.name)
    batch.no_empty(target.name, np.isnan(values), "every row needs a target")
    with np.errstate(over="ignore"):
        labels = values.astype("<f4")
    if np.isinf(labels).any():
        row = int(np.isinf(labels).argmax())
        raise ConfigError(f"{batch.where(target.name, row)}: {values[row]:g} is too large for float32; give the target in a larger unit")
    return labels
