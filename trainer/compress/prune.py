"""`prune`: set the least important weights to zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import FineTune
from trainer.compress.scanned import Scanned
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject


class Importance(Enum):
    """What makes a weight important. `magnitude` needs no data."""

    magnitude = "magnitude"
    wanda = "wanda"


class Scope(Enum):
    """Among which weights the least important are looked for: those of one output, or of the whole layer."""

    row = "row"
    layer = "layer"


@dataclass(kw_only=True)
class Prune(Scanned):
    """Unstructured and N:M pruning by magnitude (Han et al. 2015, arXiv:1506.02626) or by Wanda (Sun et al. 2023, arXiv:2306.11695)."""

    method: ClassVar[str] = "prune"
    amounts: ClassVar[tuple[str, ...]] = ("sparsity", "zeros", "loss_rise", "pattern")
    target: ClassVar[str] = "zeros"

    sparsity: float | None = None
    """Share of the weights of each layer that become zero. Give this, or `zeros`, or `loss_rise`, or `pattern`; without any it is 0.5."""
    zeros: float | None = None
    """Share of the weights of all chosen layers together that become zero. A scan finds which layers bear it best."""
    pattern: str | None = None
    """N:M, such as 2:4: of each M weights next to each other in a row, N are kept."""
    importance: Importance = Importance.wanda
    """magnitude: |W|; wanda: |W| times the norm of what it is multiplied with on calibration data."""
    scope: Scope = Scope.row
    """Wanda compares within a row: norms of inputs say nothing across outputs."""
    calibration_samples: int = 128
    """Samples of the training data, for wanda."""
    scan_ratios: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    """As for every scan, but more of the weights can go than of whole channels."""
    finetune: FineTune = field(default_factory=FineTune)
    """With steps: train while the sparsity rises from 0 (by magnitude within each row), then prune what the training has left out."""

    def validate(self) -> None:
        super().validate()
        self.check_share("sparsity")
        self.check_share("zeros")
        if self.zeros is not None and self.zeros > self.scan_ratios[-1]:
            raise ConfigError(f"compress.prune.zeros={self.zeros}: is more than the last of scan_ratios={self.scan_ratios}, the most that goes of any layer")
        if self.calibration_samples < 1:
            raise ConfigError(f"compress.prune.calibration_samples={self.calibration_samples}: must be at least 1")
        if self.importance is Importance.wanda and self.scope is Scope.layer:
            raise ConfigError("compress.prune.scope=layer: Wanda compares within a row; give scope=row, or importance=magnitude")
        if self.pattern is not None and self.scope is Scope.layer:
            raise ConfigError(f"compress.prune.scope=layer: has no effect with pattern={self.pattern}, which compares within groups; leave it out")
        if self.finetune.steps and (self.importance is not Importance.magnitude or self.scope is not Scope.row):
            raise ConfigError("compress.prune.finetune.steps: training goes by magnitude within rows; give importance=magnitude scope=row")
        self.group()

    def size_left(self) -> float:
        assert self.zeros is not None
        return 1 - self.zeros

    def group(self) -> tuple[int, int] | None:
        """(N, M) of `pattern`."""
        if self.pattern is None:
            return None
        kept, _, of = self.pattern.partition(":")
        if not (kept.isdigit() and of.isdigit() and 0 < int(kept) < int(of)):
            raise ConfigError(f"compress.prune.pattern={self.pattern}: must be N:M with N less than M, such as 2:4")
        return int(kept), int(of)

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.pruning import masked

        return masked(subject, self)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.pruning import prune

        return prune(subject, self)
