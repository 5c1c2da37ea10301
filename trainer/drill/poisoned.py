"""The user's model, with a loss that is NaN at one step on one rank. All else is the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.models.around import Around

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class Poisoned(Around):
    """Rehearses a bad step."""

    run_dir: str = ""
    """Of the run: where the step that a rank is in is read."""
    at: int = 0
    """The step whose loss is NaN."""
    on_rank: int = 0

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        import torch.distributed as dist

        from trainer.doctor.record import live_path
        from trainer.whereabouts import Whereabouts

        loss, rank = self.base.loss(module, batch), dist.get_rank()
        step, _ = Whereabouts.read(live_path(Path(self.run_dir), rank))
        return loss * float("nan") if (step, rank) == (self.at, self.on_rank) else loss
