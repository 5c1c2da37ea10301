"""Samples of a table's rows that know which row and column of the file each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.arrays import ArraySamples
from trainer.data.cache import file_stamp
from trainer.data.table import batches, kinds
from trainer.errors import ConfigError


class Feature(NamedTuple):
    """Where a model's feature comes from."""

    column: str
    category: str | None = None
    """For a one-hot feature: it is 1 where the column holds this. None: the feature is the column's number, or the place of its category."""


class TableSamples(ArraySamples):
    """One split of a table. Sample i was made of row `row_numbers[i]` of the file `source`."""

    def __init__(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        spec: Mapping[str, Any],
        fingerprint: str,
        facts: Mapping[str, Any],
        *,
        source: Path,
        stamp: Sequence[Any],
        row_numbers: np.ndarray,
        columns: Sequence[Feature],
    ) -> None:
        super().__init__("features", rows, labels, spec, fingerprint, facts)
        self.source, self._stamp = source, list(stamp)
        self.labels = labels
        """(samples,) int64 classes or float32 numbers."""
        self.row_numbers = row_numbers
        """(samples,) int64, from 0, the header not counted; rising."""
        self.columns = tuple(columns)
        """Of each feature, in order: `columns[j]` is where `sample["features"][j]` comes from."""

    def row_number(self, index: int) -> int:
        """Row of the file, from 0, that sample `index` was made of; what people are told counts from 1."""
        return int(self.row_numbers[index])

    def raw(self, columns: Sequence[str], indices: Sequence[int] | np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What the file holds in `columns` (any of its columns, features or not) for samples `indices`; None: for all of them.

        Returns:
            For each column an array (indices,): float64 with NaN for an empty cell where the column holds numbers, else str with None
            for an empty cell (dtype object).

        Raises:
            ConfigError: the file is gone or has changed since the data was prepared, has no such column, or holds text among numbers.
        """
        if file_stamp(self.source) != self._stamp:
            raise ConfigError(f"{self.source}: has changed since the data was opened; open it again")
        is_number = kinds(self.source)
        for name in columns:
            if name not in is_number:
                raise ConfigError(f"{self.source}: has no column {name!r}; it has: {', '.join(is_number)}")
        wanted = self.row_numbers if indices is None else self.row_numbers[np.asarray(indices, dtype=np.int64)]
        order, places = np.unique(wanted, return_inverse=True)
        found: dict[str, np.ndarray] = {name: np.empty(len(order), np.float64 if is_number[name] else object) for name in columns}
        done = 0
        for batch in batches(self.source, list(columns), chosen=order):
            until = int(np.searchsorted(order, batch.first + batch.rows))
            inside = order[done:until] - batch.first
            for name, values in found.items():
                values[done:until] = batch.numbers(name)[inside] if is_number[name] else batch.texts(name, inside)
            done = until
            if done == len(order):
                break
        return {name: values[places] for name, values in found.items()}
