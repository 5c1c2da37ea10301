"""How much columns matter to a model on a split: what it loses when the values of one are those of other samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.base import Samples
from trainer.errors import ConfigError
from trainer.explain.case import log_odds
from trainer.explain.randomness import derived
from trainer.explain.tabular import TabularDecisions
from trainer.posttrain.measure import Spread

CHUNK = 4096  # samples in one forward pass


@dataclass(frozen=True)
class Importance:
    """What shuffling some columns of a split costs."""

    units: tuple[int, ...]
    """Numbers of the columns."""
    samples: int
    """That the figures are of."""
    whole: dict[str, float]
    """Metrics with no column shuffled: loss, and accuracy and auc where there are such."""
    worse: dict[str, Tensor]
    """For each, (units, repeats) float64: how much the loss rises, or the others fall, each time the column is shuffled."""

    def mean(self, metric: str) -> Tensor:
        """(units,) float64."""
        return self.worse[metric].mean(1)

    def deviation(self, metric: str) -> Tensor:
        """(units,) float64: the standard deviation over the repeats. It says nothing of other samples than these."""
        return self.worse[metric].std(1)


def joined(parts: Sequence[Importance]) -> Importance:
    """What was found of different columns, in the order of their numbers."""
    units = torch.tensor([unit for part in parts for unit in part.units])
    order = units.argsort()
    worse = {metric: torch.cat([part.worse[metric] for part in parts])[order] for metric in parts[0].worse}
    return Importance(tuple(units[order].tolist()), parts[0].samples, parts[0].whole, worse)


def shuffled(decisions: TabularDecisions, units: Sequence[int], samples: int, repeats: int, seed: int) -> Importance:
    """Shuffle each of `units` (numbers of columns) `repeats` times over `samples` samples of the evaluation split at most.

    A chunk of samples is in memory at a time, with one column of all of them.

    Raises:
        ConfigError: the split has one sample.
    """
    split = Spread(decisions.rows, samples)
    if len(split) < 2:
        raise ConfigError(f"explain=permutation_importance: takes 2 samples or more, and the evaluation split has {len(split)}")
    _, unit_of = decisions.units
    (whole,) = _metrics(decisions, split, 1, lambda rows, first: [rows])
    found = []
    for unit in units:
        features = (unit_of == unit).nonzero().flatten()
        column = torch.cat([split.batch(range(*chunk))["features"][:, features] for chunk in _chunks(split)])
        orders = [torch.randperm(len(split), generator=torch.Generator().manual_seed(derived(unit, again, seed))) for again in range(repeats)]

        def swapped(rows: Tensor, first: int, features: Tensor = features, column: Tensor = column, orders: list[Tensor] = orders) -> list[Tensor]:
            return [rows.index_copy(1, features, column[order[first : first + len(rows)]]) for order in orders]

        found.append(_metrics(decisions, split, repeats, swapped))
    signs = {metric: 1.0 if metric == "loss" else -1.0 for metric in whole}
    worse = {
        metric: torch.tensor([[sign * (again[metric] - whole[metric]) for again in each] for each in found], dtype=torch.float64).reshape(len(found), repeats)
        for metric, sign in signs.items()
    }
    return Importance(tuple(units), len(split), whole, worse)


def _chunks(split: Samples) -> list[tuple[int, int]]:
    return [(first, min(first + CHUNK, len(split))) for first in range(0, len(split), CHUNK)]


@torch.no_grad()
def _metrics(decisions: TabularDecisions, split: Samples, variants: int, changed: Callable[[Tensor, int], list[Tensor]]) -> list[dict[str, float]]:
    """For each of the `variants` that `changed` makes of the features of samples from a first one on, the model's metrics over the split."""
    sums: list[dict[str, float]] = [defaultdict(float) for _ in range(variants)]
    margins: list[list[Tensor]] = [[] for _ in range(variants)]
    labels, count = [], 0
    for first, end in _chunks(split):
        batch = split.batch(range(first, end))
        labels.append(batch["labels"])
        count += decisions.model.count(batch)
        for variant, features in enumerate(changed(batch["features"], first)):
            own = {key: value.to(decisions.device()) for key, value in {**batch, "features": features}.items()}
            own["features"] = decisions.entered(own["features"])
            for metric, value in decisions.model.metrics(decisions.module, own).items():
                if metric in ("loss", "accuracy"):
                    sums[variant][metric] += float(value)
            outputs = decisions.model.outputs(decisions.module, own)
            if outputs.shape[-1] == 2:
                margins[variant].append(log_odds(outputs, 1).double().cpu())
    found = [{metric: value / count for metric, value in each.items()} for each in sums]
    truth = torch.cat(labels)
    if margins[0] and len(truth.unique()) == 2:
        from sklearn.metrics import roc_auc_score

        for each, parts in zip(found, margins, strict=True):
            each["auc"] = float(roc_auc_score(truth.numpy(), torch.cat(parts).numpy()))
    return found
