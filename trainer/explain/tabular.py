"""Rows of a table as cases: a unit is a column of the file, with all the features that were made of it."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.table_samples import TableSamples
from trainer.explain.case import Case, log_odds
from trainer.explain.decisions import Decisions


class TabularDecisions(Decisions):
    """Decisions on a row."""

    def case(self, index: int, module: nn.Module | None = None) -> Case:
        rows = self.batch(index)["features"].to(torch.float32)
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
        if isinstance(self.samples, TableSamples):
            raw = self.samples.raw(units, [index])
            return {"values": {unit: raw[unit].tolist()[0] for unit in units}}
        return {"values": dict(zip(units, self.batch(index)["features"][0].tolist(), strict=True))}

    @cached_property
    def _absent(self) -> Tensor:
        return self.background.batch(range(len(self.background)))["features"].to(self.device(), torch.float32)

    @cached_property
    def units(self) -> tuple[tuple[str, ...], Tensor]:
        """Names of the columns, and of each feature the number of its own."""
        if isinstance(self.samples, TableSamples):
            names = [feature.column for feature in self.samples.columns]
        else:
            names = [str(name) for name in self.samples.spec.get("feature_names", range(self.samples.spec["features"]))]
        units = tuple(dict.fromkeys(names))
        number = {name: i for i, name in enumerate(units)}
        return units, torch.tensor([number[name] for name in names])

    def _outputs(self, module: nn.Module, rows: Tensor) -> Tensor:
        return self.model.outputs(module, {"features": rows})

    def _margin(self, module: nn.Module, chosen: int, rows: Tensor) -> Tensor:
        return log_odds(self._outputs(module, rows), chosen)
