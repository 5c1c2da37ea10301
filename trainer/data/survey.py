"""What the columns of a table hold: one pass over it, in constant memory, also where some cells are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer.data.table import Batch, batches, kinds
from trainer.errors import ConfigError

MOST_CATEGORIES = 1000
"""A column of text with more is not one of categories."""
FEW = 20
"""So many different values may be categories however rare each is."""
_FIRST = 3


@dataclass
class ColumnFacts:
    """One column."""

    name: str
    declared_number: bool
    """Parquet's type, or what the first megabyte of a CSV file suggests."""
    rows: int = 0
    missing: int = 0
    infinite: int = 0
    numbers: int = 0
    """Finite ones."""
    whole: bool = True
    """All numbers are integers."""
    low: float = float("inf")
    high: float = float("-inf")
    mean: float = 0.0
    times: bool = True
    """All cells that are not empty are dates or times."""
    texts: int = 0
    """Cells that are no numbers."""
    first_texts: list[tuple[int, str | None]] = field(default_factory=list)
    """(row from 0, cell) of the first of them."""
    counts: dict[str, int] | None = field(default_factory=dict)
    """How often each value occurs; None: there are more than `MOST_CATEGORIES`."""

    @property
    def is_number(self) -> bool:
        """Whether its cells are meant to be numbers."""
        if self.declared_number:
            return True
        different = MOST_CATEGORIES if self.counts is None else int(np.isfinite(as_numbers(list(self.counts))).sum())
        return text_among_numbers(self.texts, self.numbers, different)

    @property
    def kind(self) -> str:
        """integer, number, time, category or text. Categories are few, or occur 5 times each on average and are at most `MOST_CATEGORIES`."""
        if self.is_number:
            return "integer" if self.whole and self.numbers else "number"
        if self.rows == self.missing:
            return "text"
        if self.times:
            return "time"
        return "category" if self.counts is not None and (len(self.counts) <= FEW or self.rows >= 5 * len(self.counts)) else "text"

    @property
    def constant(self) -> bool:
        """All cells are the same, or empty."""
        return self.counts is not None and len(self.counts) < 2

    def add(self, batch: Batch) -> None:
        """Take in the next rows."""
        values, empty = batch.parsed(self.name), batch.empty(self.name)
        texts = np.isnan(values) & ~empty
        self.rows += batch.rows
        self.missing += int(empty.sum())
        self.texts += int(texts.sum())
        self.infinite += int(np.isinf(values).sum())
        if self.times and not self.declared_number:
            try:
                batch.times(self.name)
            except ConfigError:
                self.times = False
        if len(self.first_texts) < _FIRST and texts.any():
            rows = np.flatnonzero(texts)[: _FIRST - len(self.first_texts)]
            self.first_texts += zip((batch.first + rows).tolist(), batch.texts(self.name, rows), strict=True)
        fine = values[np.isfinite(values)]
        if len(fine):
            self.whole = self.whole and bool((fine == np.floor(fine)).all())
            self.low, self.high = min(self.low, float(fine.min())), max(self.high, float(fine.max()))
            self.numbers += len(fine)
            self.mean += float((fine - self.mean).sum()) / self.numbers
        if self.counts is not None:
            places, names = batch.categories(self.name)
            for name, many in zip(names, np.bincount(places[places >= 0], minlength=len(names)).tolist(), strict=True):
                self.counts[name] = self.counts.get(name, 0) + many
            if len(self.counts) > MOST_CATEGORIES:
                self.counts = None


def text_among_numbers(texts: int, numbers: int, different: int) -> bool:
    """Whether a column's few `texts` (cells) are a mistake: nine tenths of the cells are numbers, more than ten `different` ones.

    So grades like 2, 3, 4, "5 and more" are categories, and measurements with a "?" among them are not.
    """
    return texts > 0 and different > 10 and numbers >= 9 * texts


def as_numbers(cells: Sequence[str]) -> np.ndarray:
    """(cells,) float64; NaN where a cell is no number."""
    import pyarrow

    return Batch(Path(), 0, {"": pyarrow.array(cells, pyarrow.string())}, len(cells)).parsed("")


def survey(path: Path) -> list[ColumnFacts]:
    """The facts of every column, in order.

    Raises:
        ConfigError: the file cannot be read.
    """
    columns = [ColumnFacts(name, is_number) for name, is_number in kinds(path).items()]
    for batch in batches(path, [column.name for column in columns]):
        for column in columns:
            column.add(batch)
    return columns
