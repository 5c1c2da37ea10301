"""`explain=shap`: Shapley values of the units of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError, missing_extra
from trainer.explain.base import Explainer

if TYPE_CHECKING:
    from trainer.explain.case import Attribution, Case


class Algorithm(Enum):
    """How they are computed. exact: of all coalitions; permutation and kernel: of a sample of them; partition: Owen values, of coalitions
    that a hierarchy of the units allows; gradient: expected gradients; auto: exact for 10 units that differ from the background or fewer,
    else permutation. tree is refused: it is for ensembles of trees (see `trees.tree_attributions`)."""

    auto = "auto"
    exact = "exact"
    permutation = "permutation"
    kernel = "kernel"
    partition = "partition"
    gradient = "gradient"
    tree = "tree"


@dataclass(kw_only=True)
class Shap(Explainer):
    """SHAP (Lundberg and Lee, 2017, arXiv:1705.07874) by the library shap; expected gradients (Erion et al., 2021, arXiv:1906.10670) by captum."""

    name: ClassVar[str] = "shap"
    package: ClassVar[str | None] = "shap"
    kind: Algorithm = Algorithm.auto
    evaluations: int = 1024
    """Coalitions that are evaluated for a decision at most, each on all of the background; gradient: points where the gradient is taken."""

    def validate(self) -> None:
        super().validate()
        if self.kind is Algorithm.tree:
            raise ConfigError(
                "explain.shap.kind=tree: explains ensembles of trees, and this model is none; take kind=auto, or kind=gradient for a network. "
                "Trees that are trained beside it are explained by trainer.explain.trees"
            )
        if self.kind is Algorithm.gradient and find_spec("captum") is None:
            raise missing_extra("captum", "explain", "explain.shap.kind=gradient")
        if self.evaluations < 4:
            raise ConfigError(f"explain.shap.evaluations={self.evaluations}: must be at least 4")

    def needs_gradients(self) -> bool:
        return self.kind is Algorithm.gradient

    def is_random(self) -> bool:
        return self.kind not in (Algorithm.exact, Algorithm.partition)

    def is_additive(self) -> bool:
        return self.kind is not Algorithm.gradient  # only in the mean over what is drawn

    def is_shapley(self) -> bool:
        return self.kind not in (Algorithm.partition, Algorithm.gradient)  # Owen values; expected gradients

    def explain(self, case: Case, seed: int) -> Attribution:
        from trainer.explain import shapley

        if self.kind is Algorithm.gradient:
            return shapley.expected_gradients(case, self.evaluations, seed)
        return shapley.play(case, self.kind, self.evaluations, seed)
