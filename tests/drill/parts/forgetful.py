"""A model of somebody's own package that does not survive a restart: it counts its calls in the process, and no checkpoint holds that."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.models.gpt import GPT

if TYPE_CHECKING:
    from torch import Tensor, nn

calls = 0


@dataclass(kw_only=True)
class Forgetful(GPT):
    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        global calls
        calls += 1
        if calls == 1:
            subprocess.Popen(["sleep", "100"], start_new_session=True)  # and it leaves a process behind
        return super().loss(module, batch) * (1 + 0.1 * calls)
