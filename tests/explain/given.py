"""Samples and models that are given, and the Shapley values of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.explain import known
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
        raise AssertionError("the module is given")

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("nothing is trained")

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(batch[self.key])


def shapley(case: Case) -> np.ndarray:
    """(units,): by the definition, of the game that the case is."""

    def value(present: frozenset[int]) -> float:
        return float(case.value(torch.tensor([[unit in present for unit in range(len(case))]]))[0])

    return known.shapley(value, len(case))
