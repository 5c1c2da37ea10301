"""`prune_structured`: remove whole channels, hidden units and attention heads, so that the model gets smaller and faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import FineTune
from trainer.compress.prune import Importance
from trainer.compress.scanned import Scanned
from trainer.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


@dataclass(kw_only=True)
class PruneStructured(Scanned):
    """Removes what depends on each other together (Fang et al. 2023, arXiv:2301.12900). `layers` and `exclude` choose among those that give channels."""

    method: ClassVar[str] = "prune_structured"
    amounts: ClassVar[tuple[str, ...]] = ("ratio", "macs", "loss_rise")
    target: ClassVar[str] = "macs"
    plain: ClassVar[bool] = True

    ratio: float | None = None
    """Share of the channels of each layer that goes. Give this, or `macs`, or `loss_rise`; without any it is 0.2."""
    macs: float | None = None
    """Share of the multiply-accumulates of a pass that is left. A scan finds which layers bear it best."""
    importance: Importance = Importance.wanda
    """magnitude: the norm of all weights of a channel; wanda: by how much the outputs of the layers that read it vary with it, on
    calibration data. Then what it is on average goes into their biases, where they have any (An et al. 2023, arXiv:2312.11983)."""
    calibration_samples: int = 16
    """Samples of the training data, for wanda and for running statistics."""
    multiple: int = 8
    """Channels are left in multiples of it, which kernels are fast with."""
    finetune: FineTune = field(default_factory=FineTune)
    """With steps: train what is left."""

    def validate(self) -> None:
        if find_spec("torch_pruning") is None:
            raise missing_extra("torch-pruning", "compress", "compress.prune_structured")
        super().validate()
        self.check_share("ratio")
        self.check_share("macs")
        for key in ("calibration_samples", "multiple"):
            if getattr(self, key) < 1:
                raise ConfigError(f"compress.prune_structured.{key}={getattr(self, key)}: must be at least 1")

    def size_left(self) -> float:
        assert self.macs is not None
        return self.macs

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.slimming import slim

        return slim(subject, self)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.slimming import slim, trained

        return trained(subject) if self.finetune.steps else slim(subject, self)
