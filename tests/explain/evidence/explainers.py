"""Explainers that are right, and explainers that are known to be wrong in one way each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case


def game(case: Case):
    """`case.value` for numpy arrays of 0 and 1."""
    return lambda rows: case.value(torch.from_numpy(np.atleast_2d(rows) > 0.5)).numpy()


@dataclass(kw_only=True)
class Orders(Explainer):
    """Shapley values as the mean over orders of what each unit adds: all orders of up to 5 units, else `orders` random ones and their reverses."""

    name: ClassVar[str] = "orders"
    orders: int = 400
    wrong_deviation: float = 1.0
    """Standard errors are multiplied with it."""

    def is_additive(self) -> bool:
        return True

    def is_shapley(self) -> bool:
        return True

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        units = len(case)
        generator = torch.Generator().manual_seed(seed)
        if units <= 5:
            orders = [torch.tensor(order) for order in itertools.permutations(range(units))]
        else:
            orders = [each for _ in range(self.orders) for each in [torch.randperm(units, generator=generator)] for each in (each, each.flip(0))]
        present = torch.stack(orders).argsort(1).unsqueeze(1) < torch.arange(units + 1).view(1, -1, 1)
        values = case.value(present.flatten(0, 1)).view(len(orders), units + 1)
        added = torch.zeros(len(orders), units, dtype=torch.float64).scatter_(1, torch.stack(orders), values.diff(dim=1))
        pairs = added if units <= 5 else added.view(-1, 2, units).mean(1)  # an order and its reverse are not independent
        deviation = torch.zeros(units, dtype=torch.float64) if units <= 5 else pairs.std(0) / len(pairs) ** 0.5
        return Attribution(added.mean(0), float(values[0, 0]), deviation * self.wrong_deviation)


@dataclass(kw_only=True)
class Kernel(Explainer):
    """shap's KernelExplainer on the game, with so many samples."""

    name: ClassVar[str] = "kernel"
    samples: int = 60
    claims: bool = True

    def is_additive(self) -> bool:
        return True

    def is_shapley(self) -> bool:
        return self.claims

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        import shap

        np.random.seed(seed % 2**32)
        explainer = shap.KernelExplainer(game(case), np.zeros((1, len(case))), silent=True)
        values = explainer.shap_values(np.ones((1, len(case))), nsamples=self.samples, l1_reg=False, silent=True)
        return Attribution(torch.from_numpy(np.asarray(values, np.float64).reshape(-1)), case.none_present())


@dataclass(kw_only=True)
class Exact(Explainer):
    """shap's ExactExplainer on the game."""

    name: ClassVar[str] = "exact"

    def is_additive(self) -> bool:
        return True

    def is_shapley(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        import shap

        found = shap.explainers.Exact(game(case), shap.maskers.Independent(np.zeros((1, len(case)))))(np.ones((1, len(case))))
        return Attribution(torch.from_numpy(np.asarray(found.values, np.float64).reshape(-1)), case.none_present())


@dataclass(kw_only=True)
class Lime(Explainer):
    """LIME (arXiv:1602.04938) on the game: weighted ridge regression of the margin on `samples` random coalitions, in scikit-learn."""

    name: ClassVar[str] = "lime"
    samples: int = 1000

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        from sklearn.linear_model import Ridge

        present = torch.rand(self.samples, len(case), generator=torch.Generator().manual_seed(seed)) < 0.5
        present[0] = True
        kept = present.double().mean(1)
        weights = torch.exp(-((1 - kept.sqrt()) ** 2) / 0.25**2)
        x, y = present.double().numpy(), case.value(present).numpy()
        fit = Ridge(1.0).fit(x, y, weights.numpy())
        return Attribution(torch.from_numpy(fit.coef_), told={"r2": float(fit.score(x, y, weights.numpy()))})


@dataclass(kw_only=True)
class Constant(Explainer):
    """The same value for each unit, so that they add up."""

    name: ClassVar[str] = "constant"

    def is_additive(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        base = case.none_present()
        return Attribution(torch.full((len(case),), (case.all_present() - base) / len(case), dtype=torch.float64), base)


@dataclass(kw_only=True)
class Noise(Explainer):
    """Random numbers."""

    name: ClassVar[str] = "noise"

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        return Attribution(torch.randn(len(case), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@dataclass(kw_only=True)
class Magnitude(Explainer):
    """How large the inputs are, with their signs: an edge detector, that never asks the model."""

    name: ClassVar[str] = "magnitude"

    def explain(self, case: Case, seed: int) -> Attribution:
        return Attribution(case.per_unit(case.inputs - case.background.mean(0)))


@dataclass(kw_only=True)
class Changed(Explainer):
    """A right explainer whose values are spoilt."""

    name: ClassVar[str] = "changed"
    right: Explainer = field(default_factory=Orders)
    how: str = "permuted"

    def is_additive(self) -> bool:
        return self.right.is_additive() and self.how != "negated"

    def is_shapley(self) -> bool:
        return self.right.is_shapley()

    def is_random(self) -> bool:
        return self.right.is_random()

    def explain(self, case: Case, seed: int) -> Attribution:
        found = self.right.explain(case, seed)
        return Attribution(self._spoilt(found.values, case.seed), found.base, None)

    def _spoilt(self, values: Tensor, seed: int) -> Tensor:
        if self.how == "negated":
            return -values
        while True:
            order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
            if not bool((order == torch.arange(len(values))).any()):
                return values[order]
            seed += 1_000_003
