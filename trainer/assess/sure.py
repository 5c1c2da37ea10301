"""How sure a figure is: bootstrap intervals over people, who are resampled alike for all models and groups, so that differences are of pairs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from trainer.assess.quality import Statistic
from trainer.posttrain.bootstrap import CONFIDENCE, resamples

UNDEFINED = 0.05  # of resamples, above which there is no interval


def intervals(statistic: Statistic, people: int, floored: Collection[str] = ()) -> dict[str, dict[str, float | None]]:
    """Each figure of `statistic` with its interval: "value", "low", "high", None where it is not defined.

    `floored` names figures that are at least 0 and too large by chance, such as a largest difference. Their lower percentile never comes
    to 0: the lower end is as far below the value as the upper percentile is above it, cut at 0 (of two groups, that of the signed difference).
    """
    values = {name: float(each[0]) for name, each in statistic(np.ones((1, people))).items()}
    pieces = [statistic(weights.numpy()) for weights in resamples(people)]
    drawn = {name: np.concatenate([piece[name] for piece in pieces]) for name in values}
    return {name: interval(value, drawn[name], name in floored) for name, value in values.items()}


def interval(value: float, drawn: np.ndarray, floored: bool) -> dict[str, float | None]:
    """`value` with its interval from what resamples gave."""
    defined = drawn[~np.isnan(drawn)]
    if math.isnan(value) or len(defined) < (1 - UNDEFINED) * len(drawn):
        return {"value": None if math.isnan(value) else value, "low": None, "high": None}
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
    if floored:
        low = max(0.0, 2 * value - high)
    return {"value": value, "low": low, "high": high}


def compared(statistics: Mapping[str, Statistic]) -> Statistic:
    """The figures of several models as "NAME/figure", and of each but the first "NAME/figure/difference": the first's less its own."""
    first, *others = statistics

    def found(weights: np.ndarray) -> dict[str, np.ndarray]:
        figures = {name: statistic(weights) for name, statistic in statistics.items()}
        told = {f"{name}/{key}": value for name, each in figures.items() for key, value in each.items()}
        return told | {f"{name}/{key}/difference": figures[first][key] - value for name in others for key, value in figures[name].items()}

    return found


def nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"a/b": x} as {"a": {"b": x}}: what `compared` names."""
    told: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, _, key = name.partition("/")
        told.setdefault(section, {})[key] = value
    return told
