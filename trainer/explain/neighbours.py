"""LIME's linear models of a margin, on neighbours of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.explain.case import Attribution, Case
from trainer.explain.randomness import derived

WIDTH = 0.25  # of LIME's kernel for texts and pictures, in cosine distances


def of_rows(case: Case, samples: int, discretize: bool, seed: int) -> Attribution:
    """The linear model of a row of a table: neighbours take each number from a normal distribution like the background's."""
    from lime.lime_tabular import LimeTabularExplainer

    table = _Table(case)
    named = table.categorical()
    explainer = LimeTabularExplainer(
        table.background,
        mode="regression",
        categorical_features=named,
        discretize_continuous=discretize,
        feature_selection="none",
        random_state=derived(case.seed, seed),
    )

    def margins(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return case.finite(torch.cat([case.margin(chunk).double().cpu() for chunk in table.features(rows).split(case.at_once())])).numpy()

    found = explainer.explain_instance(table.row, margins, num_samples=samples)
    weights = np.zeros(len(case))
    for column, weight in found.local_exp[1]:  # type: ignore[union-attr]
        slope = not discretize and column not in named
        scale = (table.row[column] - explainer.scaler.mean_[column]) / explainer.scaler.scale_[column] if slope else 1.0  # type: ignore[index]
        weights[column] = weight * scale
    return Attribution(torch.from_numpy(weights), told={"r2": float(found.score)})


def of_masks(case: Case, samples: int, seed: int) -> Attribution:
    """The linear model of presence: neighbours lack some units, any number of them equally often, as LIME does it with words."""
    from lime.lime_base import LimeBase

    random = np.random.default_rng(derived(case.seed, seed))
    lacking = random.integers(1, len(case) + 1, size=(samples, 1))
    present = random.random((samples, len(case))).argsort(1).argsort(1) >= lacking
    present[0] = True  # the sample itself
    distances = 1 - np.sqrt(present.mean(1))  # the cosine distance to it
    values = case.value(torch.from_numpy(present)).numpy()
    model = LimeBase(lambda distance: np.sqrt(np.exp(-(distance**2) / WIDTH**2)))
    _, weights, r2, _ = model.explain_instance_with_data(present.astype(np.float64), values[:, None], distances, 0, len(case), "none")
    found = torch.zeros(len(case), dtype=torch.float64)
    for unit, weight in weights:  # type: ignore[union-attr]
        found[unit] = weight
    return Attribution(found, told={"r2": float(r2)})


@dataclass
class _Column:
    """A unit as one column of numbers: its feature, or the place of its features' values among those that there are."""

    features: Tensor
    levels: Tensor | None
    """(levels, features), rising; None: the unit is one feature, of more than two values."""


class _Table:
    """A row and its background with one column for each unit, so that what makes up a category is drawn together."""

    def __init__(self, case: Case) -> None:
        self._inputs, self._columns = case.inputs, []
        rows = torch.cat([case.inputs[None], case.background])
        made = np.zeros((len(rows), len(case)))
        for unit in range(len(case)):
            features = (case.unit_of == unit).nonzero().flatten()
            if len(features) == 1 and len(rows[:, features[0]].unique()) > 2:
                levels, numbers = None, rows[:, features[0]]
            else:
                levels, numbers = rows[:, features].unique(dim=0, return_inverse=True)
            made[:, unit] = numbers.cpu().numpy()
            self._columns.append(_Column(features, levels))
        self.row, self.background = made[0], made[1:]
        """(units,) and (rows, units) float64."""

    def categorical(self) -> list[int]:
        return [unit for unit, column in enumerate(self._columns) if column.levels is not None]

    def features(self, rows: np.ndarray) -> Tensor:
        """(n, units), as `row`, to (n, features), as the model takes them."""
        found = self._inputs.repeat(len(rows), 1)
        for unit, column in enumerate(self._columns):
            values = torch.from_numpy(rows[:, unit]).to(found.device)
            found[:, column.features] = values[:, None].to(found.dtype) if column.levels is None else column.levels[values.long()]
        return found
