"""What is usual in a column, which reasons are told against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

CATEGORIES = 50  # of a column, whose share of defaults is kept


def usual(values: np.ndarray, bad: np.ndarray) -> dict[str, Any]:
    """What is usual in a column of the training split, as plain data.

    Args:
        values: (people,) numbers with NaN, or text with None, where a cell is empty.
        bad: (people,) bool, who defaults.
    """
    if values.dtype != object:
        low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75]).tolist() if (~np.isnan(values)).any() else (math.nan,) * 3
        return {"median": median, "low": low, "high": high}
    names, places, counts = np.unique([str(value) for value in values if value is not None], return_inverse=True, return_counts=True)
    there = np.array([value is not None for value in values], bool)
    defaults = np.bincount(places, bad[there], len(names)) / counts
    often = np.argsort(-counts, kind="stable")[:CATEGORIES]
    return {"people": {str(names[i]): int(counts[i]) for i in often}, "defaults": {str(names[i]): float(defaults[i]) for i in often}, "all": float(bad.mean())}
