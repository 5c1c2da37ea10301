"""A table made into float32 rows and labels: one pass to fit, one to write, both in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.data.arrays import chosen_for_eval
from trainer.data.shards import entropy
from trainer.data.table import Batch, batches, kinds
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.data.tabular import Tabular


@dataclass
class Column:
    """One column and what was fitted on its training rows."""

    name: str
    is_number: bool
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each category occurs."""

    def fit(self, batch: Batch, chosen: np.ndarray) -> None:
        """Take in the rows of `batch` that are `chosen`."""
        if self.is_number:
            values = batch.numbers(self.name)[chosen]
            self._fit_numbers(values[~np.isnan(values)])
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

    def codes(self, batch: Batch) -> np.ndarray:
        """(rows,) the place of each row's category in `categories`.

        Raises:
            ConfigError: an empty cell, or a category that no training row has.
        """
        places, names = batch.categories(self.name)
        _no_empty(batch, self.name, places < 0, "categories have no mean: fill it, or leave the column out of data.features")
        known = {name: place for place, name in enumerate(self.categories())}
        codes = np.asarray([known.get(name, -1) for name in names] or [-1])[places]
        if (codes < 0).any():
            row = int((codes < 0).argmax())
            raise ConfigError(f"{batch.where(self.name, row)}: the category {names[places[row]]!r} is not in the training split")
        return codes


def write_table(knobs: Tabular, place: Path) -> dict[str, Any]:
    """Fit and write; returns the index.

    Raises:
        ConfigError: content that cannot be used, naming the column and row.
    """
    path = Path(knobs.path)
    features, target = _columns(knobs, path)
    evaluated = None if knobs.eval_path is None else Path(knobs.eval_path)
    names = [column.name for column in (*features, target)]
    if evaluated is not None and (absent := set(names) - set(kinds(evaluated))):
        raise ConfigError(f"{evaluated}: has no column {min(absent)!r}, which {path} has")
    for batch, is_eval in _rows(knobs, path, evaluated, names):
        for column in (*features, target):
            column.fit(batch, ~is_eval)
    checksum = hashlib.sha256()
    parts = [(split, kind) for split in ("train", "eval") for kind in ("features", "labels")]
    files = {part: (place / ".".join(part)).open("wb") for part in parts}
    for batch, is_eval in _rows(knobs, path, evaluated, names):
        arrays = {"features": _features(knobs, features, batch), "labels": _labels(target, batch)}
        for split, kind in parts:
            data = arrays[kind][is_eval if split == "eval" else ~is_eval].tobytes()
            checksum.update(data)
            files[split, kind].write(data)
    for file in files.values():
        file.close()
    return {
        "files": {name: (place / name).stat().st_size for name in map(".".join, parts)},
        "feature_names": [name for column in features for name in _feature_names(knobs, column)],
        "preparation": {"columns": [_preparation(knobs, column) for column in features], "target": target.name, "classes": target.categories()},
        "classes": target.categories(),
        "class_entropy": entropy(np.asarray(list(target.counts.values()))) if target.counts else None,
        "sha256": checksum.hexdigest(),
    }


def _columns(knobs: Tabular, path: Path) -> tuple[list[Column], Column]:
    from trainer.data.tabular import Task

    found = kinds(path)
    for key, names in (("target", [knobs.target]), ("features", knobs.features), ("categorical", knobs.categorical)):
        for name in names:
            if name not in found:
                raise ConfigError(f"data.{key}: {path} has no column {name!r}; it has: {', '.join(found)}")
    classify = knobs.task is Task.classification
    if not classify and not found[knobs.target]:
        raise ConfigError(f"data.target={knobs.target}: data.task=regression needs numbers, and the column in {path} holds text")
    names = knobs.features or [name for name in found if name != knobs.target]
    if not names:
        raise ConfigError(f"data.features: {path} has no column but the target {knobs.target!r}")
    return [Column(name, found[name] and name not in knobs.categorical) for name in names], Column(knobs.target, not classify)


def _rows(knobs: Tabular, path: Path, evaluated: Path | None, names: Sequence[str]) -> Iterator[tuple[Batch, np.ndarray]]:
    """(batch, (rows,) which rows are for evaluation)."""
    for batch in batches(path, names):
        if evaluated is not None:
            yield batch, np.zeros(batch.rows, bool)
        else:
            yield batch, chosen_for_eval(batch.first, batch.rows, knobs.seed, knobs.eval_fraction)
    if evaluated is not None:
        for batch in batches(evaluated, names):
            yield batch, np.ones(batch.rows, bool)


def _feature_names(knobs: Tabular, column: Column) -> list[str]:
    from trainer.data.tabular import Encoding

    if column.is_number or knobs.encoding is Encoding.ordinal:
        return [column.name]
    return [f"{column.name}={category}" for category in column.categories()]


def _preparation(knobs: Tabular, column: Column) -> dict[str, Any]:
    """What `_features` does to a cell of `column`, as plain values: a number that is empty becomes `fill`, and is then (number - shift) / scale."""
    if not column.is_number:
        return {"name": column.name, "categories": column.categories(), "encoding": knobs.encoding.name}
    shift, scale = (column.mean, column.scale()) if knobs.standardize else (0.0, 1.0)
    return {"name": column.name, "fill": column.mean if knobs.missing.name == "mean" and column.count else None, "shift": shift, "scale": scale}


def _features(knobs: Tabular, columns: Sequence[Column], batch: Batch) -> np.ndarray:
    """(rows, features) float32."""
    from trainer.data.tabular import Encoding, Missing

    parts: list[np.ndarray] = []
    for column in columns:
        if not column.is_number:
            codes = column.codes(batch)
            parts.append(codes[:, None] if knobs.encoding is Encoding.ordinal else np.eye(len(column.counts))[codes])
            continue
        values = batch.numbers(column.name)
        empty = np.isnan(values)
        if knobs.missing is Missing.error or column.count == 0:
            _no_empty(batch, column.name, empty, "data.missing=mean takes the training split's mean")
        values = np.where(empty, column.mean, values)
        parts.append((((values - column.mean) / column.scale()) if knobs.standardize else values)[:, None])
    return np.concatenate(parts, axis=1).astype("<f4")


def _labels(target: Column, batch: Batch) -> np.ndarray:
    """(rows,) int64 classes or float32 numbers."""
    if not target.is_number:
        return target.codes(batch).astype("<i8")
    values = batch.numbers(target.name)
    _no_empty(batch, target.name, np.isnan(values), "every row needs a target")
    return values.astype("<f4")


def _no_empty(batch: Batch, name: str, empty: np.ndarray, advice: str) -> None:
    if empty.any():
        raise ConfigError(f"{batch.where(name, int(empty.argmax()))}: the cell is empty; {advice}")
