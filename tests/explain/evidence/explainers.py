"""Explainers that are right, and explainers that are known to be wrong in one way each."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from trainer.explain.base import Explainer
from trainer.explain.case import Attribution, Case


@dataclass(kw_only=True)
class Orders(Explainer):
    """Shapley values as the mean of what each unit adds over `orders` random orders and their reverses, with standard errors."""

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
        units, generator = len(case), torch.Generator().manual_seed(seed)
        orders = [each for _ in range(self.orders) for each in _both_ways(torch.randperm(units, generator=generator))]
        present = torch.stack(orders).argsort(1).unsqueeze(1) < torch.arange(units + 1).view(1, -1, 1)
        values = case.value(present.flatten(0, 1)).view(len(orders), units + 1)
        added = torch.zeros(len(orders), units, dtype=torch.float64).scatter_(1, torch.stack(orders), values.diff(dim=1))
        pairs = added.view(-1, 2, units).mean(1)  # an order and its reverse are not independent
        deviation = pairs.std(0) / len(pairs) ** 0.5
        return Attribution(added.mean(0), float(values[0, 0]), deviation * self.wrong_deviation)


def _both_ways(order: Tensor) -> tuple[Tensor, Tensor]:
    return order, order.flip(0)


@dataclass(kw_only=True)
class Kernel(Explainer):
    """Shapley values as a weighted regression on coalitions (KernelSHAP, arXiv:1705.07874, theorem 2): exact on all of them, wrong on too few."""

    name: ClassVar[str] = "kernel"
    samples: int | None = None

    def is_additive(self) -> bool:
        return True

    def is_shapley(self) -> bool:
        return True

    def is_random(self) -> bool:
        return self.samples is not None

    def explain(self, case: Case, seed: int) -> Attribution:
        units = len(case)
        present = torch.tensor(list(itertools.product([False, True], repeat=units)))[1:-1]
        present = present[torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))[: self.samples]]
        size = present.sum(1)
        weight = torch.tensor([(units - 1) / (math.comb(units, s) * s * (units - s)) for s in size.tolist()], dtype=torch.float64)
        base, z = case.none_present(), present.double()
        total = case.all_present() - base  # the last value is what the others leave of it
        x, y = z[:, :-1] - z[:, -1:], case.value(present) - base - z[:, -1] * total
        first = torch.linalg.lstsq(weight.sqrt().unsqueeze(1) * x, (weight.sqrt() * y).unsqueeze(1), driver="gelsd").solution[:, 0]
        return Attribution(torch.cat([first, total - first.sum(0, keepdim=True)]), base)


@dataclass(kw_only=True)
class Lime(Explainer):
    """LIME (arXiv:1602.04938) on the game: weighted ridge regression of the margin on `samples` random coalitions, solved in closed form."""

    name: ClassVar[str] = "lime"
    samples: int = 1000

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        present = torch.rand(self.samples, len(case), generator=torch.Generator().manual_seed(seed)) < 0.5
        present[0] = True
        kept = present.double().mean(1)
        weights = torch.exp(-((1 - kept.sqrt()) ** 2) / 0.25**2)
        weights, x, y = weights / weights.sum(), present.double(), case.value(present)
        x, y = x - weights @ x, y - weights @ y  # the intercept is not shrunk
        slopes = torch.linalg.solve(x.T @ (weights.unsqueeze(1) * x) + torch.eye(len(case)) / 1e3 / self.samples, x.T @ (weights * y))
        return Attribution(slopes, told={"r2": float(1 - weights @ (y - x @ slopes) ** 2 / (weights @ y**2))})


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


@dataclass(kw_only=True)
class InputNoise(Explainer):
    """Random numbers that another input changes."""

    name: ClassVar[str] = "input noise"

    def explain(self, case: Case, seed: int) -> Attribution:
        drawn = int(case.inputs.double().sum() * 1e6) % 2**31
        return Attribution(torch.randn(len(case), generator=torch.Generator().manual_seed(drawn), dtype=torch.float64))


@dataclass(kw_only=True)
class Unrepeatable(Explainer):
    """LIME as it is used: its random state goes on from call to call."""

    name: ClassVar[str] = "unrepeatable"

    def is_random(self) -> bool:
        return True

    def explain(self, case: Case, seed: int) -> Attribution:
        return Lime(samples=100).explain(case, int(torch.randint(2**31, ())))
