"""Samples of rows of equal shape, kept in memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.data.base import Sample, Samples
from trainer.data.cache import digest

if TYPE_CHECKING:
    from torch import Tensor


class ArraySamples(Samples):
    """Row i of `rows` under the name `key`, times `scale` as float32, with its label."""

    def __init__(
        self,
        key: str,
        rows: np.ndarray,
        labels: np.ndarray,
        spec: Mapping[str, Any],
        fingerprint: str,
        facts: Mapping[str, Any],
        scale: float = 1.0,
    ) -> None:
        self._key, self._rows, self._labels = key, rows, labels
        self._scale = np.float32(scale)
        self.spec, self.fingerprint, self._facts = spec, fingerprint, facts
        self.sample_bytes = 4 * int(np.prod(rows.shape[1:])) + labels.itemsize

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        return {self._key: self._rows[index] * self._scale, "labels": self._labels[index]}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        import torch

        chosen = np.asarray(indices)
        return {self._key: torch.from_numpy(self._rows[chosen] * self._scale), "labels": torch.from_numpy(self._labels[chosen])}

    def flat(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return self._rows[first:last].reshape(last - first, -1) * self._scale, self._labels[first:last]

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), **self._facts, **self.spec}


def map_rows(path: Path, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """The array in `path`, of rows of `shape`; empty if the file is."""
    if path.stat().st_size == 0:
        return np.zeros((0, *shape), dtype)
    return np.memmap(path, dtype, "r").reshape(-1, *shape)


def chosen_for_eval(first: int, count: int, seed: int, eval_fraction: float) -> np.ndarray:
    """Which of the rows [first, first + count) are for evaluation: a stable hash of (seed, row).

    The hash is SplitMix64 (Steele, Lea and Flood 2014), whose arithmetic is modulo 2^64.
    """
    origin = int(digest(seed)[:16], 16)
    z = np.uint64(origin) + np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) < np.uint64(int(eval_fraction * 2**64))
