"""The model of the benchmarks as a part of one's own: `--config-dir benchmarks/configs model=stamped_gpt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import stamps
from trainer.models.gpt import GPT

if TYPE_CHECKING:
    from torch import nn


@dataclass(kw_only=True)
class StampedGPT(GPT):
    """GPT that says when each step ended."""

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        stamps.install()
        return super().build(spec)
