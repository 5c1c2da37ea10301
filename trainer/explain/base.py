"""What an explainer is to the trainer: one method, one dataclass, one YAML. Nothing here imports torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError, missing_extra
from trainer.part import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from trainer.explain.case import Attribution, Case
    from trainer.explain.importance import Importance
    from trainer.explain.tabular import TabularDecisions


class Kind(Enum):
    """What a sample is made of: columns of a table, tokens of a text, regions of a picture."""

    tabular = "tabular"
    text = "text"
    image = "image"


@dataclass(kw_only=True)
class Method(Part):
    """What all that `explain=[...]` may name have in common."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What must be installed."""
    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)
    """What it can explain."""

    def validate(self) -> None:
        if self.package is not None and find_spec(self.package) is None:
            raise missing_extra(self.package, "explain", f"explain={self.name}")

    def check(self, kind: Kind) -> None:
        """Refuse data that this method cannot explain.

        Raises:
            ConfigError: names what it is for.
        """
        if kind not in self.kinds:
            fits = ", ".join(one.name for one in Kind if one in self.kinds)
            raise ConfigError(f"explain={self.name}: explains {fits} data, and this is {kind.name} data; take another explainer")

    def check_module(self, module: nn.Module) -> None:
        """Refuse a model that this method cannot look into; called before any work.

        Raises:
            ConfigError: names what is missing.
        """

    def is_random(self) -> bool:
        """Whether another seed gives other values."""
        return False


@dataclass(kw_only=True)
class Explainer(Method):
    """One method that says how much each unit of a sample (a column, a token, a region) adds to the model's decision."""

    def needs_gradients(self) -> bool:
        """Whether `explain` differentiates the model."""
        return False

    def is_additive(self) -> bool:
        """Whether the values should add up to the decision less `Attribution.base`."""
        return False

    def is_shapley(self) -> bool:
        """Whether the values claim to be the Shapley values of `Case.value`."""
        return False

    @abstractmethod
    def explain(self, case: Case, seed: int) -> Attribution:
        """How much each unit of `case` adds to its margin; a pure function of `case` and `seed`."""


@dataclass(kw_only=True)
class GlobalExplainer(Method):
    """One method that says how much each column matters to the model on a whole split: no single decision is explained."""

    @abstractmethod
    def importance(self, decisions: TabularDecisions, units: Sequence[int], seed: int) -> Importance:
        """How much those `units` (numbers of columns) matter; of each a pure function of the decisions, its number and `seed`.

        Ranks that share the columns among themselves therefore find together what one finds alone (see `importance.joined`).
        """
