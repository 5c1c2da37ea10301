"""The order of the data as arithmetic: the batch of a step is a function of (seed, step) alone."""

from __future__ import annotations

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
        self.half = max(1, ((length - 1).bit_length() + 1) // 2)
        self.mask = (1 << self.half) - 1
        self.keys = [stable_seed(seed, "feistel", i) for i in range(ROUNDS)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(index)
        while True:  # less than four rounds of this on average: the domain is under 4 x length
            left, right = index >> self.half, index & self.mask
            for key in self.keys:
                left, right = right, left ^ (_mix(right ^ key) & self.mask)
            index = (left << self.half) | right
            if index < self.length:
                return index


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    value &= 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


class Order:
    """Which sample stands at each position of an endless stream: every epoch is a fresh permutation.

    Positions run on over the ends of epochs, so no sample is dropped.
    """

    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed
        self._epoch = -1
        self._permutation = Permutation(length, 0)

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, self.length)
        if epoch != self._epoch:
            self._permutation, self._epoch = Permutation(self.length, stable_seed(self.seed, "epoch", epoch)), epoch
        return self._permutation[index]


def micro_batches(step: int, global_batch: int, rank: int, ranks: int, micro: int | None) -> list[range]:
    """Positions of the micro-batches that data rank `rank` of `ranks` takes in step `step` (1 is the first)."""
    share = global_batch // ranks
    first = (step - 1) * global_batch + rank * share
    size = share if micro is None else micro
    return [range(start, start + size) for start in range(first, first + share, size)]
