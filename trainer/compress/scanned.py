"""What methods share that take the same share of every layer, or what a scan finds that each of them bears. Nothing here imports torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from trainer.compress.base import Compressor
from trainer.errors import ConfigError


@dataclass(kw_only=True)
class Scanned(Compressor):
    """Knobs of the scan, and one of several ways to say how much goes."""

    method: ClassVar[str]
    """Its name in `compress=[...]`."""
    amounts: ClassVar[tuple[str, ...]]
    """The knobs that say how much goes, of which one may be given."""
    target: ClassVar[str]
    """The one of them that asks the scan for a size."""

    loss_rise: float | None = None
    """Share by which the loss on the scanned samples may rise, measured with all that goes. A scan finds what can go for it."""
    scan_samples: int = 8
    """Samples of the training data on which the scan measures the loss."""
    scan_ratios: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5])
    """Shares of one layer whose loss is measured when they alone go. Between them it is interpolated; more than the last does not go."""

    def validate(self) -> None:
        given = [key for key in self.amounts if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(f"compress.{self.method}: {' and '.join(given)} are given; give one of them")
        if self.loss_rise is not None and not self.loss_rise > 0:
            raise ConfigError(f"compress.{self.method}.loss_rise={self.loss_rise}: must be above 0")
        if self.scan_samples < 1:
            raise ConfigError(f"compress.{self.method}.scan_samples={self.scan_samples}: must be at least 1")
        ratios = self.scan_ratios
        if not ratios or sorted(set(ratios)) != ratios or not 0 < ratios[0] <= ratios[-1] < 1:
            raise ConfigError(f"compress.{self.method}.scan_ratios={ratios}: must be rising shares between 0 and 1, such as [0.25,0.5]")

    def check_share(self, key: str) -> None:
        """Refuse a value of `key` that is no share."""
        if (value := getattr(self, key)) is not None and not 0 < value < 1:
            raise ConfigError(f"compress.{self.method}.{key}={value}: must be between 0 and 1, such as 0.5")

    def scans(self) -> bool:
        """Whether a scan chooses how much goes of each layer."""
        return self.loss_rise is not None or getattr(self, self.target) is not None

    @abstractmethod
    def size_left(self) -> float:
        """The share of the size that `target` wants to be left."""
