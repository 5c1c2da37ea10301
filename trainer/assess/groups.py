"""People in groups, from what the file holds in a column. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from trainer.errors import ConfigError

MOST = 12
EMPTY = "not stated"


class Groups(NamedTuple):
    """People in groups of one column."""

    names: list[str]
    places: np.ndarray
    """(people,) which of `names` each is in."""


def grouped(column: str, values: np.ndarray, edges: Sequence[float] | None) -> Groups:
    """People by their `values` (people,), numbers with NaN or text with None where a cell is empty; numbers are cut at `edges`.

    Raises:
        ConfigError: edges for text, or so many values that they are no groups.
    """
    is_number = values.dtype != object
    empty = np.isnan(values) if is_number else np.array([value is None for value in values], bool)
    if edges is not None:
        if not is_number:
            raise ConfigError(f"assess.groups: {column!r} holds text, which is not cut at {list(edges)}; give its name alone")
        names = [f"under {edges[0]:g}", *(f"{low:g} to under {high:g}" for low, high in pairwise(edges)), f"{edges[-1]:g} and over"]
        places = np.searchsorted(np.asarray(edges, np.float64), values, side="right")
        kept = [i for i in range(len(names)) if (places[~empty] == i).any()]
    else:
        distinct = sorted(set(values[~empty].tolist()))
        if len(distinct) > MOST:
            advice = f"say where to cut it, such as {{{column}:[{distinct[len(distinct) // 2]:g}]}}" if is_number else "take one with fewer"
            raise ConfigError(f"assess.groups: {column!r} has {len(distinct)} values, too many for groups; {advice}")
        names = [f"{value:g}" if is_number else str(value) for value in distinct]
        places = np.array([distinct.index(value) if not gone else 0 for value, gone in zip(values.tolist(), empty, strict=True)], np.int64)
        kept = list(range(len(names)))
    if empty.any():
        places, kept, names = np.where(empty, len(names), places), [*kept, len(names)], [*names, EMPTY]
    return Groups([names[i] for i in kept], np.searchsorted(kept, places))
