"""`low_rank`: each weight matrix as a product of two thin ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


@dataclass(kw_only=True)
class LowRank(Compressor):
    """Truncated SVD, plain or whitened by the inputs (SVD-LLM, Wang et al. 2024, arXiv:2403.07378)."""

    reforms: ClassVar[bool] = True

    ratio: float | None = 0.2
    """Share of the parameters of all chosen layers together that is saved, where it loses least of their singular values."""
    energy: float | None = None
    """Instead of `ratio`: each layer keeps the fewest singular values whose squares are this share of their sum."""
    whiten: bool = True
    """Keep what matters for the inputs that calibration data gives, and not what matters for the weights alone."""
    calibration_samples: int = 128
    """Samples of the training data, for `whiten`."""

    def validate(self) -> None:
        if (self.ratio is None) == (self.energy is None):
            raise ConfigError("compress.low_rank: give one of ratio=0.2 and energy=0.95, and null for the other")
        for key, value in (("ratio", self.ratio), ("energy", self.energy)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"compress.low_rank.{key}={value}: must be between 0 and 1")
        if self.calibration_samples < 1:
            raise ConfigError(f"compress.low_rank.calibration_samples={self.calibration_samples}: must be at least 1")

    def run(self, subject: Subject) -> Change:
        from trainer.compress.factor import factor

        return factor(subject, self)
