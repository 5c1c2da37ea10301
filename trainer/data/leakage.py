"""What makes a result on a table better than it is: rows in both splits, a column that is the target, a column that alone foretells it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import IO

import numpy as np

from trainer.data.progress import progress
from trainer.data.table_samples import TableSamples

MOST_ROWS = 50_000
"""Of the training split, evenly spread, that columns are held against the target on; fewer where there are many features:"""
_LEAST_ROWS, _MOST_VALUES = 2_000, 20_000_000
_BINS = 64
_CLASSES = 20  # the most frequent ones are told from the rest
_CHUNK = 1 << 22  # bytes of rows at once
_FIRST = 3
_SAME_ORDER = 1 - 1e-6


@dataclass(frozen=True)
class Duplicates:
    """Rows that are equal in every feature and in the target, as the model gets them."""

    count: int
    """Rows of the eval split that are in the training split too."""
    of: int
    """Rows of the eval split."""
    within: int
    """Rows of the training split that another row before them equals."""
    first: list[tuple[int, int]]
    """(row of the eval split's file, row of the training split's file), from 0, of the first."""


@dataclass(frozen=True)
class Alone:
    """How well one column foretells the target."""

    column: str
    score: float
    """Classification: the area under the ROC curve of the class that it tells best from the rest. Regression: R2."""
    copy: bool
    """It is the target under another name: each of its values belongs to one class and each class to one value, or it has the target's order."""


def duplicates(train: TableSamples, evaluation: TableSamples) -> Duplicates:
    """Find rows of both splits by their hashes, on disk: memory does not grow with the table."""
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other, tempfile.TemporaryFile() as third:
        trained, held_out = _hashes(train, one), _hashes(evaluation, other)
        third.truncate(max(8, 8 * len(trained)))
        ordered = np.memmap(third, "<u8", "r+")[: len(trained)]
        ordered[:] = trained
        ordered.sort()
        within = int((ordered[1:] == ordered[:-1]).sum())
        places = np.minimum(np.searchsorted(ordered, held_out), max(0, len(ordered) - 1))
        both = np.flatnonzero(ordered[places] == held_out) if len(ordered) else np.zeros(0, np.int64)
        first = [(evaluation.row_number(int(row)), train.row_number(int(np.argmax(trained == held_out[row])))) for row in both[:_FIRST]]
        return Duplicates(len(both), len(held_out), within, first)


def _hashes(samples: TableSamples, scratch: IO[bytes]) -> np.ndarray:
    """(samples,) 64 bits of BLAKE2b of each sample's features and label, in a mapped file."""
    step = max(1, _CHUNK // max(1, samples.sample_bytes or 1))
    with progress("looking for rows in both splits", len(samples) * (samples.sample_bytes or 1)) as advance:
        for first in range(0, len(samples), step):
            rows, labels = samples.flat(first, min(first + step, len(samples)))
            rows = rows + np.float32(0)  # -0 is 0
            every = np.concatenate([rows.view(np.uint8).reshape(len(rows), -1), labels[:, None].copy().view(np.uint8).reshape(len(rows), -1)], axis=1)
            scratch.write(b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in every))
            advance(every.nbytes)
    scratch.flush()
    return np.memmap(scratch, "<u8", "r") if len(samples) else np.zeros(0, "<u8")


def alone(train: TableSamples) -> list[Alone]:
    """How well each column foretells the target, the best first; on at most `MOST_ROWS` rows."""
    count = min(len(train), MOST_ROWS, max(_LEAST_ROWS, _MOST_VALUES // max(1, len(train.columns))))
    places = [index * len(train) // count for index in range(count)]
    rows, labels = np.empty((count, len(train.columns)), np.float32), train.labels[places]
    for row, place in zip(rows, places, strict=True):
        row[:] = train.flat(place, place + 1)[0]
    classify = "classes" in train.spec
    scores = []
    for name, values, is_code in _columns(train, rows):
        if len(values) < 2 or (values == values[0]).all() or (labels == labels[0]).all():
            continue
        bins = values.astype(np.int64) if is_code else _binned(values)
        if classify:
            score = max(_tells_apart(values, bins, labels == wanted, is_code) for wanted in _frequent(labels))
            copy = _one_to_one(values, labels)
        else:
            order = 0.0 if is_code else abs(float(np.corrcoef(midranks(values), midranks(labels))[0, 1]))
            score = max(_explained(bins, labels), 0.0 if is_code else float(np.corrcoef(values.astype(np.float64), labels)[0, 1]) ** 2)
            copy = order > _SAME_ORDER
        scores.append(Alone(name, score, copy))
    return sorted(scores, key=lambda one: -one.score)


def _columns(samples: TableSamples, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
    """(name, (rows,) its numbers or the places of its categories, whether they are such places) of each of the table's columns."""
    for name, places in groupby(range(len(samples.columns)), key=lambda place: samples.columns[place].column):
        features = list(places)
        part = rows[:, features]
        if samples.columns[features[0]].category is None:
            yield name, part[:, 0], False
        else:
            yield name, np.where(part.any(axis=1), part.argmax(axis=1), len(features)), True


def _frequent(labels: np.ndarray) -> np.ndarray:
    classes, counts = np.unique(labels, return_counts=True)
    return classes[np.argsort(-counts, kind="stable")[:_CLASSES]]


def _one_to_one(values: np.ndarray, labels: np.ndarray) -> bool:
    pairs = len(np.unique(np.stack([values.astype(np.float64), labels.astype(np.float64)]), axis=1)[0])
    return pairs == len(np.unique(values)) == len(np.unique(labels))


def _tells_apart(values: np.ndarray, bins: np.ndarray, positive: np.ndarray, is_code: bool) -> float:
    by_bin = float(np.mean([_binned_auc(bins, positive, fold) for fold in (0, 1)]))
    if is_code:
        return by_bin
    order = auc(values, positive)
    return max(by_bin, order, 1 - order)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve as the Mann-Whitney statistic, ties half; 0.5 where a class is empty."""
    many, others = int(positive.sum()), int((~positive).sum())
    if not many or not others:
        return 0.5
    return (midranks(scores)[positive].sum() - many * (many + 1) / 2) / (many * others)


def midranks(values: np.ndarray) -> np.ndarray:
    """(values,) float64 ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _binned(values: np.ndarray) -> np.ndarray:
    """(rows,) the place of each value among at most `_BINS` of about equal count, or among the values where they are fewer."""
    different, places = np.unique(values, return_inverse=True)
    if len(different) <= _BINS:
        return places
    return np.searchsorted(np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])), values)


def _rate(bins: np.ndarray, values: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """((rows of the fold,) the mean of `values` in the row's bin over the other half of the rows, (rows,) which rows the fold has).

    Of other rows, as a bin of one row would foretell itself.
    """
    mine = np.arange(len(bins)) % 2 == fold
    counts = np.bincount(bins[~mine], minlength=int(bins.max()) + 1)
    sums = np.bincount(bins[~mine], weights=values[~mine], minlength=len(counts))
    mean = values[~mine].mean()
    return ((sums + mean) / (counts + 1))[bins[mine]], mine


def _binned_auc(bins: np.ndarray, positive: np.ndarray, fold: int) -> float:
    rate, mine = _rate(bins, positive.astype(np.float64), fold)
    return auc(rate, positive[mine])


def _explained(bins: np.ndarray, labels: np.ndarray) -> float:
    """R2 of each bin's mean, on rows that it was not taken from."""
    values = labels.astype(np.float64)
    left = total = 0.0
    for fold in (0, 1):
        rate, mine = _rate(bins, values, fold)
        left += float(((values[mine] - rate) ** 2).sum())
        total += float(((values[mine] - values.mean()) ** 2).sum())
    return 1 - left / total if total else 0.0
