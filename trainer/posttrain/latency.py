"""How long forward passes take, of several models side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.base import Model

WARM_UP = 3


def side_by_side(models: Sequence[tuple[Model, nn.Module]], batch: Mapping[str, Tensor], pairs: int) -> list[dict[str, Any]]:
    """Of a pass of each model over `batch`; see `in_turns`."""
    with torch.no_grad():
        return in_turns([partial(model.metrics, module, batch) for model, module in models], pairs)


def in_turns(calls: Sequence[Callable[[], object]], pairs: int) -> list[dict[str, Any]]:
    """Median and 90th percentile in seconds of each of `calls`, made in turns, the first one changing."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(WARM_UP + pairs):
        order = list(range(len(calls)))
        for i in order[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            calls[i]()
            if number >= WARM_UP:
                times[i].append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    return [{"median": statistics.median(taken), "p90": statistics.quantiles(taken, n=10)[-1], "passes": pairs, "threads": threads} for taken in times]
