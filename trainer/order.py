"""The order of the data as arithmetic: the batch of a step is a function of (seed, step, batches passed over) alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from trainer.materialise import stable_seed

ROUNDS = 8


class Permutation:
    """A pseudo-random permutation of range(length) in constant memory.

    A balanced Feistel network over the next even power of two with cycle walking
    (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    """

    def __init__(self, length: int, seed: int):
        if length < 1:
            raise ValueError(f"length={length}: must be at least 1")
        self.length = length
        half = max(1, ((length - 1).bit_length() + 1) // 2)
        self.half, self.mask = np.uint64(half), np.uint64((1 << half) - 1)
        self.keys = [np.uint64(stable_seed(seed, "feistel", i)) for i in range(ROUNDS)]

    def __getitem__(self, index: int) -> int:
        return int(self.take(np.array([index]))[0])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Where each of `indices` goes; all at once, because the training thread waits for Python that runs elsewhere."""
        if len(indices) and (indices.min() < 0 or indices.max() >= self.length):
            raise IndexError(f"indices from {indices.min()} to {indices.max()} of {self.length}")
        values = indices.astype(np.uint64)
        walking = np.arange(len(values))
        while len(walking):  # less than four rounds of this on average: the domain is under 4 x length
            left, right = values[walking] >> self.half, values[walking] & self.mask
            for key in self.keys:
                left, right = right, left ^ (_mix(right ^ key) & self.mask)
            values[walking] = (left << self.half) | right
            walking = walking[values[walking] >= self.length]
        return values.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), modulo 2 ** 64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Order:
    """Which sample stands at each position of an endless stream: every epoch is a fresh permutation.

    Positions run on over the ends of epochs, so no sample is dropped.
    """

    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed
        self._last = (-1, Permutation(length, 0))  # one value, because several threads read and replace it

    def __getitem__(self, position: int) -> int:
        return self.take(range(position, position + 1))[0]

    def take(self, positions: range) -> list[int]:
        """The samples at `positions`, in order."""
        return self.take_all([positions])[0]

    def take_all(self, spans: Sequence[range]) -> list[list[int]]:
        """The samples at each of `spans`: many take little longer than one."""
        positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        epochs, places = np.divmod(positions, self.length)
        taken = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            taken[inside] = self._epoch(epoch).take(places[inside])
        samples = iter(taken.tolist())
        return [list(islice(samples, len(span))) for span in spans]

    def _epoch(self, epoch: int) -> Permutation:
        known, permutation = self._last
        if known != epoch:
            permutation = Permutation(self.length, stable_seed(self.seed, "epoch", epoch))
            self._last = (epoch, permutation)
        return permutation


def batch_of(step: int, passed_over: Sequence[int]) -> int:
    """The batch of the order that `step` takes (1 is the first of each): batches in `passed_over`, sorted, are left out."""
    batch = step
    for left_out in passed_over:
        batch += left_out <= batch
    return batch


def micro_batches(batch: int, global_batch: int, rank: int, ranks: int, micro: int | None) -> list[range]:
    """Positions of the micro-batches that data rank `rank` of `ranks` takes of the global batch `batch` (1 is the first)."""
    share = global_batch // ranks
    first = (batch - 1) * global_batch + rank * share
    size = share if micro is None else micro
    return [range(start, start + size) for start in range(first, first + share, size)]
