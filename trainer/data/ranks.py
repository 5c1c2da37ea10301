"""What a fit over several ranks exchanges: sums of arrays and a few plain values. One process exchanges nothing, and needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Alone:
    """One process."""

    rank, size = 0, 1

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of every rank's `values`. A collective."""
        return values

    def every(self, value: T) -> list[T]:
        """Every rank's plain `value`, in order. A collective."""
        return [value]

    def first(self, function: Callable[[], T]) -> T:
        """What `function` returns, or raises, on rank 0. A collective."""
        return function()


class Together(Alone):
    """All ranks of the process group; its backend takes tensors on `device`."""

    def __init__(self, device: Any) -> None:
        import torch.distributed as dist

        self.rank, self.size, self._device = dist.get_rank(), dist.get_world_size(), device

    def total(self, values: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as dist

        summed = torch.from_numpy(np.array(values, np.float64)).to(self._device)
        dist.all_reduce(summed)
        return summed.cpu().numpy()

    def every(self, value: T) -> list[T]:
        import torch.distributed as dist

        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, function: Callable[[], T]) -> T:
        from trainer.distributed import from_rank_0

        return from_rank_0(function)
