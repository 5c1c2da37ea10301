"""`explain=integrated_gradients`: gradients summed along the way from the background to the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.explain.base import Explainer

if TYPE_CHECKING:
    from trainer.explain.case import Attribution, Case


@dataclass(kw_only=True)
class IntegratedGradients(Explainer):
    """Integrated gradients (Sundararajan et al., 2017, arXiv:1703.01365) by captum, the mean over all of the background."""

    name: ClassVar[str] = "integrated_gradients"
    package: ClassVar[str | None] = "captum"
    steps: int = 32
    """Of the Gauss-Legendre quadrature of each path."""

    def validate(self) -> None:
        super().validate()
        if self.steps < 1:
            raise ConfigError(f"explain.integrated_gradients.steps={self.steps}: must be at least 1")

    def needs_gradients(self) -> bool:
        return True

    def is_additive(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        import torch
        from captum.attr import IntegratedGradients as Captum

        from trainer.explain.case import Attribution

        case.check_gradients("explain=integrated_gradients")
        rows = case.inputs.expand_as(case.background)
        at_once = max(len(rows), case.differentiable_rows())  # captum takes no fewer than there are paths
        found = Captum(case.margin).attribute(rows, case.background, n_steps=self.steps, method="gausslegendre", internal_batch_size=at_once)
        assert isinstance(found, torch.Tensor)
        return Attribution(case.finite(case.per_unit(found.detach().to(torch.float64).mean(0))), case.none_present())
