"""`explain=lime`: a linear model of the decision near the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.explain.base import Explainer

if TYPE_CHECKING:
    from trainer.explain.case import Attribution, Case


@dataclass(kw_only=True)
class Lime(Explainer):
    """LIME (Ribeiro et al., 2016, arXiv:1602.04938) by the library lime, on the margin.

    `Attribution.told["r2"]` says how much of the decisions near the sample the linear model explains.
    """

    name: ClassVar[str] = "lime"
    package: ClassVar[str | None] = "lime"
    samples: int | None = None
    """Neighbours that the model decides. Null: 5,000 of a row of a table, 1,000 of a text or a picture, each of those on all of the background."""
    discretize: bool = False
    """Tables. false: a number adds its distance to the background's mean times the slope. true: what it adds is of its quartile in the
    background against the three others, as the library does unless it is told: of a model that is linear, too, that fits badly."""

    def validate(self) -> None:
        super().validate()
        if self.samples is not None and self.samples < 10:
            raise ConfigError(f"explain.lime.samples={self.samples}: must be at least 10, or null")

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        """As `Explainer.explain`.

        Raises:
            ConfigError: fewer neighbours than a linear model of so many units can be fitted to.
        """
        from trainer.explain.neighbours import of_masks, of_rows

        is_row = case.inputs.dim() == 1
        samples = self.samples or (5000 if is_row else 1000)
        if samples <= len(case) + 1:
            raise ConfigError(
                f"explain.lime.samples={samples}: cannot fit a linear model of {len(case)} units; give at least {len(case) + 2}, or fewer columns (data.reduce)"
            )
        return of_rows(case, samples, self.discretize, seed) if is_row else of_masks(case, samples, seed)
