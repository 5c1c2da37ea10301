"""What libraries draw at random, as a function of given numbers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived(*seeds: int) -> int:
    """One seed, from 0 to 2^32 - 1, of several numbers from 0 on; other numbers, or the same in another order, give another."""
    return int(np.random.SeedSequence(seeds).generate_state(1)[0])


@contextmanager
def seeded(*seeds: int) -> Iterator[int]:
    """Within, NumPy's global generator, which shap and captum draw from, starts at what `seeds` give; gives that number.

    Afterwards it, and PyTorch's, which captum draws from where it need not, are as they were.
    """
    seed, before = derived(*seeds), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices):
            yield seed
    finally:
        np.random.set_state(before)
