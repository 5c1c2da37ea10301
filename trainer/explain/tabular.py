"""Rows of a table as cases: a unit is a column of the file, with all the features that were made of it."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.base import Samples
from trainer.data.table_samples import TableSamples
from trainer.explain.case import Case, log_odds
from trainer.explain.decisions import Decisions


class TabularDecisions(Decisions):
    """Decisions on a row. Where `data.reduce` has made components of its features, the reduction is taken as the model's first layer, so that
    what is said of the features is as exact as what is said of a model without one."""

    @cached_property
    def rows(self) -> Samples:
        """The samples whose features the units are made of: those before a reduction, unless that was of pictures."""
        return _with_columns(self.samples)

    def entered(self, features: Tensor) -> Tensor:
        """What the model is given of `features` (n, features) of `rows`, as `reduction` makes it."""
        reduction = self.samples.reduction
        if reduction is None or self.rows is self.samples:
            return features
        mean, components = self._reduction
        return ((features.to(torch.float64) - mean) @ components.T).to(features.dtype)

    @cached_property
    def _reduction(self) -> tuple[Tensor, Tensor]:
        found = self.samples.reduction
        assert found is not None
        mean, components = (torch.from_numpy(array).to(self.device(), torch.float64) for array in (found.mean, found.components))
        return mean, components

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        rows = self.rows.batch([index])["features"].to(self.device(), torch.float32)
        chosen = self.chosen(self._outputs(self.module, rows)[0])
        units, unit_of = self.units
        return Case(
            margin=partial(self._margin, self.module if module is None else module, chosen),
            inputs=rows[0],
            background=self._absent,
            unit_of=unit_of.to(rows.device),
            units=units,
            seed=index,
        )

    def shown(self, index: int) -> dict[str, Any]:
        units, _ = self.units
        if isinstance(self.rows, TableSamples):
            raw = self.rows.raw(units, [index])
            return {"values": {unit: raw[unit].tolist()[0] for unit in units}}
        return {"values": dict(zip(units, self.rows.batch([index])["features"][0].tolist(), strict=True))}

    @cached_property
    def _absent(self) -> Tensor:
        background = _with_columns(self.background)
        return background.batch(range(len(background)))["features"].to(self.device(), torch.float32)

    @cached_property
    def units(self) -> tuple[tuple[str, ...], Tensor]:
        """Names of the columns, and of each feature the number of its own."""
        if isinstance(self.rows, TableSamples):
            names = [feature.column for feature in self.rows.columns]
        else:
            names = [str(name) for name in self.rows.spec.get("feature_names", range(self.rows.spec["features"]))]
        units = tuple(dict.fromkeys(names))
        number = {name: i for i, name in enumerate(units)}
        return units, torch.tensor([number[name] for name in names])

    def _outputs(self, module: nn.Module, rows: Tensor) -> Tensor:
        return self.model.outputs(module, {"features": self.entered(rows)})

    def _margin(self, module: nn.Module, chosen: int, rows: Tensor) -> Tensor:
        return log_odds(self._outputs(module, rows), chosen)


def _with_columns(samples: Samples) -> Samples:
    """The samples before a reduction, where these have columns."""
    return samples.original if "features" in samples.original.spec else samples
