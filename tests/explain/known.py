"""Samples and models whose decisions have reasons that are known, and the Shapley values of a game by their definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data.base import Sample, Samples
from trainer.explain.case import Case
from trainer.models.base import Model


class Listed(Samples):
    """Samples that are given; texts of Latin-1 characters if `text`."""

    def __init__(self, samples: Sequence[Sample], spec: Mapping[str, Any], text: bool = False) -> None:
        self._samples, self.spec, self._text, self.fingerprint = samples, spec, text, ""

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def decode(self, ids: Sequence[int]) -> str | None:
        return bytes(ids).decode("latin-1") if self._text else None


@dataclass(kw_only=True)
class Given(Model):
    """The module's outputs for `key` of the batch."""

    key: str = "images"

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(batch[self.key])


def shapley(case: Case) -> np.ndarray:
    """(units,): by the definition (Shapley 1953), over all coalitions of the others."""
    count = len(case)
    coalitions = list(itertools.product((False, True), repeat=count))
    worth = dict(zip(coalitions, case.value(torch.tensor(coalitions)).tolist(), strict=True))
    values = np.zeros(count)
    for unit in range(count):
        for coalition in coalitions:
            if not coalition[unit]:
                size = sum(coalition)
                share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                values[unit] += share * (worth[(*coalition[:unit], True, *coalition[unit + 1 :])] - worth[coalition])
    return values
