"""The curse of dimensionality measured: how many dimensions data really has, and how alike all its distances are."""

from __future__ import annotations

from typing import Any

import numpy as np

BUDGET = 2 * 10**10
"""Multiplications that distances between sampled rows may take: many features leave fewer rows."""
RESAMPLES = 200
CHUNK = 256  # rows whose distances to all others are in memory


def most_rows(features: int, most: int) -> int:
    """How many rows have all their distances compared: at most `most`."""
    return max(2, min(most, int((BUDGET / max(features, 1)) ** 0.5)))


def two_nn(rows: np.ndarray) -> dict[str, Any] | None:
    """Intrinsic dimension of `rows` (n, features) by the ratio of each row's distances to its second and first neighbour, which is Pareto with
    the dimension as its exponent where density is even over that range (TwoNN; Facco et al. 2017, Scientific Reports 7:12140).

    Returns:
        "dimension", with "low" and "high", a 95 % bootstrap interval over the ratios; the "rows" that it is of, and the "duplicates" that were left
        out. None: fewer than 10 rows differ.
    """
    distinct = np.unique(rows, axis=0)
    if len(distinct) < 10:
        return None
    first, second = _nearest_two(distinct)
    ratios = np.sort(second / first)
    random = np.random.default_rng(0)
    again = [pareto_exponent(np.sort(random.choice(ratios, len(ratios)))) for _ in range(RESAMPLES)]
    low, high = np.percentile(again, [2.5, 97.5])
    return {
        "dimension": pareto_exponent(ratios),
        "low": float(low),
        "high": float(high),
        "rows": len(distinct),
        "duplicates": len(rows) - len(distinct),
    }


def pareto_exponent(ratios: np.ndarray) -> float:
    """The slope through the origin of -log(1 - F) over log(ratio), for rising `ratios` without the largest tenth, as in that paper."""
    used = ratios[: max(2, int(0.9 * len(ratios)))]
    x, y = np.log(used), -np.log1p(-np.arange(1, len(used) + 1) / len(ratios))
    return float(x @ y / max(x @ x, np.finfo(float).tiny))


def _nearest_two(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's distances to its two nearest others: these chosen by products, then measured themselves, which costs small ones no digits."""
    centred = rows - rows.mean(0)
    squares = (centred**2).sum(1)
    found = []
    for start in range(0, len(rows), CHUNK):
        part = centred[start : start + CHUNK]
        apart = squares - 2 * part @ centred.T
        apart[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        near = np.argpartition(apart, 1, axis=1)[:, :2]
        found.append(np.sort(np.linalg.norm(rows[near] - rows[start : start + len(part), None], axis=2), axis=1))
    first, second = np.concatenate(found).T
    return first, second


def concentration(rows: np.ndarray) -> dict[str, Any] | None:
    """How alike the distances between `rows` (n, features) are, and those of as many rows of independent Gaussian features.

    Returns:
        For the data and under "gaussian": "relative_contrast", (farthest - nearest) / nearest, mean over the rows (Beyer et al. 1999; duplicates do
        not count as nearest), "variation", standard deviation / mean of all distances, and "density", the share of distances in each hundredth
        of twice their mean. None: fewer than 3 rows differ.
    """
    varying = rows[:, rows.std(0) > 0]
    if len(np.unique(varying, axis=0)) < 3:
        return None
    gaussian = np.random.default_rng(0).normal(size=varying.shape)
    return {"rows": len(rows), "features": varying.shape[1], **_alike(varying), "gaussian": _alike(gaussian)}


def _alike(rows: np.ndarray) -> dict[str, Any]:
    centred = rows - rows.mean(0)
    squares = (centred**2).sum(1)
    apart = np.sqrt(np.clip(squares[:, None] + squares - 2 * centred @ centred.T, 0, None))
    apart[apart <= 1e-7 * np.sqrt(squares.max())] = 0  # duplicates, but for rounding
    pairs = apart[np.triu_indices(len(rows), 1)]
    farthest = apart.max(1)
    nearest = np.where(apart > 0, apart, np.inf).min(1)
    counted = np.histogram(pairs / pairs.mean(), bins=100, range=(0, 2))[0]
    return {
        "relative_contrast": float(((farthest - nearest) / nearest).mean()),
        "variation": float(pairs.std() / pairs.mean()),
        "density": (counted / len(pairs)).tolist(),
    }
