"""Count, mean and scatter of rows that are streamed, over all ranks. Memory: a chunk of rows, and what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from trainer.data.base import Samples
from trainer.data.progress import progress
from trainer.data.ranks import Alone
from trainer.errors import ConfigError

CHUNK = 1 << 20  # values of a chunk: 8 MB as fp64


@dataclass(frozen=True)
class Rows:
    """The rows of a split, of which each rank streams over an equal part."""

    samples: Samples
    names: Sequence[str]
    """Of the features."""
    ranks: Alone

    @property
    def count(self) -> int:
        """Of all ranks."""
        return len(self.samples)

    def chunks(self) -> Iterator[np.ndarray]:
        """This rank's rows in order, (some, features) float64; rank 0 says how far it has come where that takes long."""
        rank, size = self.ranks.rank, self.ranks.size
        first, last = self.count * rank // size, self.count * (rank + 1) // size
        step = max(1, CHUNK // len(self.names))
        with progress("reading rows", (last - first) * len(self.names) * 4) if rank == 0 else nullcontext() as advance:
            for start in range(first, last, step):
                values = self.samples.flat(start, min(start + step, last))[0]
                yield values.astype(np.float64)
                if advance is not None:
                    advance(values.nbytes)

    def check_finite(self) -> None:
        """Refuse a value that is not finite. A collective: said on all ranks.

        Raises:
            ConfigError: names the feature and the row.
        """
        problem, row = "", self.count * self.ranks.rank // self.ranks.size
        for chunk in self.chunks():
            if problem := not_finite(chunk, self.names, row, "training"):
                break
            row += len(chunk)
        if problems := [each for each in self.ranks.every(problem) if each]:
            raise ConfigError(problems[0])


def not_finite(chunk: np.ndarray, names: Sequence[str], first: int, split: str) -> str:
    """What is to be said of the first value of `chunk`, rows from `first` on, that is not finite; nothing where all are."""
    bad = ~np.isfinite(chunk)
    if not bad.any():
        return ""
    row, column = (int(place) for place in np.argwhere(bad)[0])
    return f"data.reduce: feature {names[column]!r} is {chunk[row, column]} in row {first + row + 1} of the {split} split; it must be a finite number"


@dataclass
class Moments:
    """Of a set of rows."""

    count: int
    mean: np.ndarray
    """(features,)"""
    scatter: np.ndarray
    """Sum over the rows of (x - mean) (x - mean)^T: (features, features), or its diagonal (features,)."""


def moments(rows: Rows, full: bool) -> Moments:
    """Moments of all ranks' rows; `full`: the whole scatter matrix, not its diagonal alone. A collective.

    Two sets are joined as Chan, Golub and LeVeque (1979) join them, so that a large mean costs no digits: within a rank chunk by chunk,
    and over the ranks at once, each rank's scatter first moved to the common mean.
    """
    width = len(rows.names)
    own = Moments(0, np.zeros(width), np.zeros((width, width) if full else width))
    for chunk in rows.chunks():
        mean = chunk.mean(0)
        chunk -= mean
        scatter = chunk.T @ chunk if full else (chunk**2).sum(0)
        step, total = mean - own.mean, own.count + len(chunk)
        own.scatter += scatter
        own.scatter += _square(step, full) * (own.count * len(chunk) / total)
        own.mean += step * (len(chunk) / total)
        own.count = total
    summed = rows.ranks.total(np.append(own.count * own.mean, own.count))
    mean = summed[:-1] / max(summed[-1], 1)
    own.scatter += _square(own.mean - mean, full) * own.count
    return Moments(round(summed[-1]), mean if rows.ranks.size > 1 else own.mean, rows.ranks.total(own.scatter))


def _square(step: np.ndarray, full: bool) -> np.ndarray:
    return np.outer(step, step) if full else step**2
