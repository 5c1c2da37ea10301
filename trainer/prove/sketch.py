"""Whole tensors in a few numbers: enough to say after every step how far two runs are apart, and where."""

from __future__ import annotations

import hashlib

import numpy as np

WIDTH = 256
"""Numbers in a sketch. A distance read from it is within about sqrt(2 / WIDTH) = 9 % of the true one."""


def digest(values: np.ndarray) -> str:
    """The same for two tensors exactly where all of their bits are the same."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()[:24]


class Sketches:
    """CountSketch (Charikar, Chen and Farach-Colton 2002): random signs, then sums over `WIDTH` buckets.

    It is linear, so the sketch of a difference is the difference of sketches, and the expected
    squared length of a sketch is that of the tensor. Tensors of up to `WIDTH` elements are kept exactly.
    """

    def __init__(self) -> None:
        self._signs: dict[str, np.ndarray] = {}

    def __call__(self, name: str, values: np.ndarray) -> np.ndarray:
        """The sketch (WIDTH,) in fp64 of `values`; signs depend on `name` and the number of elements alone."""
        flat = values.reshape(-1)
        if name not in self._signs:
            seed = int.from_bytes(hashlib.sha256(f"{name}:{flat.size}".encode()).digest()[:8], "little")
            self._signs[name] = np.random.default_rng(seed).integers(0, 2, flat.size, dtype=np.int8) * 2 - 1
        signed = flat * self._signs[name]
        whole = signed.size // WIDTH * WIDTH
        sums = signed[:whole].reshape(-1, WIDTH).sum(0, dtype=np.float64)
        sums[: signed.size - whole] += signed[whole:]
        return sums
