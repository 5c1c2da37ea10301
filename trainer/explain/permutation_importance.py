"""`explain=permutation_importance`: how much worse a model gets on a split when a column is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.explain.base import GlobalExplainer, Kind

if TYPE_CHECKING:
    from trainer.explain.importance import Importance
    from trainer.explain.tabular import TabularDecisions


@dataclass(kw_only=True)
class PermutationImportance(GlobalExplainer):
    """Breiman (2001), "Random forests", as sklearn.inspection.permutation_importance, with all features of a column shuffled together."""

    name: ClassVar[str] = "permutation_importance"
    package: ClassVar[str | None] = "sklearn"
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.tabular})
    repeats: int = 5
    """Shuffles of each column."""
    samples: int = 10_000
    """Of the evaluation split, at even distances over it, at most."""

    def validate(self) -> None:
        super().validate()
        if self.repeats < 2:
            raise ConfigError(f"explain.permutation_importance.repeats={self.repeats}: must be at least 2, for a standard deviation")
        if self.samples < 2:
            raise ConfigError(f"explain.permutation_importance.samples={self.samples}: must be at least 2")

    def is_random(self) -> bool:
        return True

    def importance(self, decisions: TabularDecisions, units: Sequence[int], seed: int) -> Importance:
        """As `GlobalExplainer.importance`.

        Raises:
            ConfigError: the split has one sample: there is nothing to shuffle.
        """
        from trainer.explain.importance import shuffled

        return shuffled(decisions, units, self.samples, self.repeats, seed)
