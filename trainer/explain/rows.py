"""What an explainer says of one sample, as a line of JSON, and what many such lines come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.explain.base import Explainer, Kind
from trainer.explain.decisions import Decisions
from trainer.explain.evidence import agreement
from trainer.explain.evidence import run as evidence
from trainer.materialise import stable_seed

SHOWN = 5  # samples whose decision the report shows one by one
EVIDENCE, BEFORE = "evidence", "before_compression"


def of(part: Explainer, decisions: Decisions, before: nn.Module | None, index: int, seed: int, checked: bool) -> dict[str, Any]:
    """What `part` says of sample `index`, with a seed that the sample and the run's `seed` fix, whichever rank it is on.

    Where it is `checked`, what the checks measure is there too, and with `before` the values for the model before compression.
    """
    own_seed = stable_seed("explain", seed, index)
    case = decisions.case(index)
    found = part.explain(case, own_seed)
    row: dict[str, Any] = {"sample": index, "margin": case.all_present(), "base": found.base, "units": case.units, "values": found.values.tolist()}
    if found.deviation is not None:
        row["deviation"] = found.deviation.tolist()
    if found.map is not None:
        row["map"] = found.map.tolist()
    if found.told:
        row["told"] = found.told
    if checked:
        row[EVIDENCE] = evidence.measured(part, decisions, case, found, own_seed)
        if before is not None:
            row[BEFORE] = part.explain(decisions.case(index, before), own_seed).values.tolist()
    return row


def told(rows: Sequence[dict[str, Any]], kind: Kind) -> dict[str, Any]:
    """Of one explainer's `rows`: over all of them, if they are a table's; some to be shown, and the checks."""
    measured = [row[EVIDENCE] for row in rows if EVIDENCE in row]
    checks = evidence.judged(measured) if measured else []
    if pairs := [(row[BEFORE], row["values"]) for row in rows if BEFORE in row]:
        checks += agreement.compressed(*zip(*pairs, strict=True))
    return {
        "global": over_all(rows) if kind is Kind.tabular else {},
        "shown": list(rows[:: max(1, len(rows) // SHOWN)][:SHOWN]),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def over_all(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each unit, the same in all `rows`, the mean value and mean absolute value."""
    values = torch.tensor([row["values"] for row in rows], dtype=torch.float64)
    return {unit: {"mean_abs": float(column.abs().mean()), "mean": float(column.mean())} for unit, column in zip(rows[0]["units"], values.T, strict=True)}
