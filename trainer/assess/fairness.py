"""How a decision treats groups of people: whom it accepts, and whom of those who would pay back.

Demographic parity asks for equal shares accepted; equal opportunity for equal shares among those who pay back (Hardt, Price and
Srebro 2016, arXiv:1610.02413). A difference is that of the largest and the smallest share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from trainer.assess.groups import Groups
from trainer.assess.quality import Statistic, pieces
from trainer.assess.sure import intervals

DIFFERENCES = ("demographic_parity", "equal_opportunity")
UNLIKELY = 0.05


def rates(refused: np.ndarray, bad: np.ndarray, groups: Groups, judged: Mapping[str, Collection[int]]) -> Statistic:
    """Of each group i "accepted/i" and "accepted_good/i", and of the groups in `judged` the two `DIFFERENCES`."""
    inside = (groups.places[:, None] == np.arange(len(groups.names))) * 1.0
    accepted, good = (~refused)[:, None] * inside, (~bad)[:, None] * inside

    def found(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = {
                "accepted": weights @ accepted / (weights @ inside),
                "accepted_good": weights @ (accepted * good) / (weights @ good),
            }
        told = {f"{key}/{i}": share[:, i] for key, share in shares.items() for i in range(len(groups.names))}
        for name, share in zip(DIFFERENCES, shares.values(), strict=True):
            of = share[:, list(judged[name])]
            told[name] = np.ptp(of, axis=1) if of.shape[1] else np.full(len(weights), np.nan)
        return told

    return found


def fairness(column: str, groups: Groups, refused: np.ndarray, bad: np.ndarray, probability: np.ndarray, smallest: int, limit: float) -> dict[str, Any]:
    """What the report says of one column: its groups, and for each of `DIFFERENCES` its interval and verdict.

    A group of fewer than `smallest` people, or for equal opportunity of fewer who pay back, is not judged.
    """
    inside = [groups.places == i for i in range(len(groups.names))]
    sizes = {
        "demographic_parity": [int(each.sum()) for each in inside],
        "equal_opportunity": [int((each & ~bad).sum()) for each in inside],
    }
    judged = {name: [i for i, size in enumerate(each) if size >= smallest] for name, each in sizes.items()}
    found = intervals(rates(refused, bad, groups, judged), len(bad), floored=DIFFERENCES)
    for name, among in zip(DIFFERENCES, (np.ones(len(bad), bool), ~bad), strict=True):
        found[name]["chance"] = chance = by_chance(~refused, groups.places, among, judged[name])
        if chance is not None and chance > UNLIKELY:
            found[name]["low"] = 0.0  # of the largest of several differences, the bootstrap is too sure
    told = [
        {
            "name": name,
            "people": sizes["demographic_parity"][i],
            "paying": sizes["equal_opportunity"][i],
            "observed": float(bad[inside[i]].mean()),
            "predicted": float(probability[inside[i]].mean()),
            "accepted": found[f"accepted/{i}"],
            "accepted_good": found[f"accepted_good/{i}"],
            "judged": {difference: i in judged[difference] for difference in DIFFERENCES},
        }
        for i, name in enumerate(groups.names)
    ]
    differences = {name: {**found[name], "verdict": verdict(found[name], limit)} for name in DIFFERENCES}
    return {"column": column, "groups": told, "differences": differences}


def by_chance(accepted: np.ndarray, places: np.ndarray, among: np.ndarray, judged: Collection[int], draws: int = 2000, seed: int = 0) -> float | None:
    """How often the largest difference between groups is at least as large when people of `among` change places at random (a permutation test).

    accepted, among: (people,) bool; places: (people,). None: fewer than two groups are judged.
    """
    if len(judged) < 2:
        return None
    taken = among & np.isin(places, list(judged))
    inside = (places[taken][:, None] == np.array(list(judged))) * 1.0
    outcome, sizes = accepted[taken] * 1.0, inside.sum(0)
    generator = np.random.default_rng(seed)
    as_large = 0
    for count in pieces(draws, len(outcome)):
        drawn = generator.permuted(np.tile(outcome, (count, 1)), axis=1)
        as_large += int((np.ptp(drawn @ inside / sizes, axis=1) >= np.ptp(outcome @ inside / sizes) - 1e-12).sum())
    return (as_large + 1) / (draws + 1)  # as it was, too (Phipson and Smyth 2010, arXiv:1603.05766)


def verdict(difference: Mapping[str, float | None], limit: float) -> str:
    """fails: larger than `limit`, and no chance; passes: surely not larger; unsure: these people do not say; too_small: fewer than two groups judged."""
    value, high, chance = difference["value"], difference["high"], difference["chance"]
    if chance is None:
        return "too_small"
    if value is None or high is None:
        return "unsure"
    return "fails" if value > limit and chance <= UNLIKELY else "passes" if high <= limit else "unsure"
