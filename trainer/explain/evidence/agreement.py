"""Agreement between explainers, and between a model before and after compression (rank, top units and signs: Krishna et al. 2022, arXiv:2202.01602)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch

from trainer.explain.evidence.check import Check, check, interval, mean
from trainer.explain.evidence.ranks import mattering, overlap, rank_correlation, same_signs

Values = Sequence[Sequence[float]]
"""Of each sample the values of its units."""
BETWEEN = 0.6
KEPT = 0.75


def between(values: Mapping[str, Values]) -> list[Check]:
    """For each pair of explainers (name to their values of the same samples) the mean rank correlation.

    BETWEEN: on MLPs with 4, 8 and 30 columns, two of each, pairs of right methods gave 0.89 to 1 over 10 samples, a right one with random
    values, input magnitudes or equal values at most 0.30, and with LIME of 5 samples 0.27 to 0.80.
    """
    return [
        _compared(
            f"{one} and {other}",
            values[one],
            values[other],
            BETWEEN,
            "Two methods that work differently rank the units alike.",
            "The two methods give different reasons for the same decisions, so at least one of them misleads: trust the one that passes the other checks.",
        )
        for one, other in itertools.combinations(values, 2)
    ]


def compressed(before: Values, after: Values) -> list[Check]:
    """By the same explainer with the same seeds, of the same samples and classes, of the model before and after compression.

    KEPT: on those MLPs weights of 8, 4 and 3 bits gave 0.93 to 1 and half of the weights pruned 0.81 to 0.97, with the same class on 80 to 100 %
    of rows; with 95 % pruned, which is to guess, it was at most 0.54.
    """
    return [
        _compared(
            "reasons before and after compression",
            before,
            after,
            KEPT,
            "Compression has kept the reasons for the decisions.",
            "Compression has changed the reasons for the decisions, even where the decisions are the same.",
        )
    ]


def _compared(name: str, one: Values, other: Values, limit: float, yes: str, no: str) -> Check:
    pairs = [(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)) for a, b in zip(one, other, strict=True)]
    pairs = [(a, b) for a, b in pairs if len(a) > 1 and bool(a.isfinite().all() and b.isfinite().all())]
    ranks = [rank_correlation(mattering(a), mattering(b)) for a, b in pairs]
    value = mean(ranks)
    others = {"top units in common": mean([overlap(a, b) for a, b in pairs]), "same sign": mean([same_signs(a, b) for a, b in pairs])}
    return check(
        "agreement",
        name,
        value,
        f"a rank correlation of at least {limit} on average",
        None if value is None else value >= limit,
        yes,
        no,
        "There is no sample with two units or more to compare.",
        interval=interval(ranks),
        details={key: found for key, found in others.items() if found is not None},
    )
