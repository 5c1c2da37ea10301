"""`prune_structured`: remove whole channels, hidden units and attention heads, so that the model gets smaller and faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from trainer.compress.base import Compressor, FineTune
from trainer.compress.prune import Importance
from trainer.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


@dataclass(kw_only=True)
class PruneStructured(Compressor):
    """Removes what depends on each other together (Fang et al. 2023, arXiv:2301.12900). `layers` and `exclude` choose among those that give channels."""

    ratio: float | None = None
    """Share of the channels of each layer that goes. Give this, or `macs`, or `loss_rise`; without any it is 0.2."""
    macs: float | None = None
    """Share of the multiply-accumulates of a pass that is left. A scan finds which layers bear it best."""
    loss_rise: float | None = None
    """Share by which the loss on the scanned samples may rise, measured with all that goes. A scan finds what can go for it."""
    importance: Importance = Importance.wanda
    """magnitude: the norm of all weights of a channel; wanda: by how much the outputs of the layers that read it vary with it, on
    calibration data. Then what it is on average goes into their biases, where they have any (An et al. 2023, arXiv:2312.11983)."""
    calibration_samples: int = 16
    """Samples of the training data, for wanda."""
    scan_samples: int = 8
    """Samples of the training data on which the scan measures the loss."""
    scan_ratios: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5])
    """Shares of the channels of one layer whose loss is measured. Between them it is interpolated; more than the last is not removed."""
    multiple: int = 8
    """Channels are left in multiples of it, which kernels are fast with."""
    finetune: FineTune = field(default_factory=FineTune)
    """With steps: train what is left."""

    def validate(self) -> None:
        if find_spec("torch_pruning") is None:
            raise missing_extra("torch-pruning", "compress", "compress.prune_structured")
        given = [key for key in ("ratio", "macs", "loss_rise") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(f"compress.prune_structured: {' and '.join(given)} are given; give one of them")
        for key in ("ratio", "macs"):
            if (value := getattr(self, key)) is not None and not 0 < value < 1:
                raise ConfigError(f"compress.prune_structured.{key}={value}: must be between 0 and 1")
        if self.loss_rise is not None and not self.loss_rise > 0:
            raise ConfigError(f"compress.prune_structured.loss_rise={self.loss_rise}: must be above 0")
        for key in ("calibration_samples", "scan_samples", "multiple"):
            if getattr(self, key) < 1:
                raise ConfigError(f"compress.prune_structured.{key}={getattr(self, key)}: must be at least 1")
        ratios = self.scan_ratios
        if not ratios or sorted(set(ratios)) != ratios or not 0 < ratios[0] <= ratios[-1] < 1:
            raise ConfigError(f"compress.prune_structured.scan_ratios={ratios}: must be rising shares between 0 and 1, such as [0.25,0.5]")

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.slimming import slim

        return slim(subject, self)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.slimming import slim, trained

        return trained(subject) if self.finetune.steps else slim(subject, self)
