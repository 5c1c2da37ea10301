"""Whom to refuse, by what it costs: an applicant who defaults costs one thing, one who is refused and would have paid back another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.assess.quality import Statistic


class Costs(NamedTuple):
    """In the user's units, above 0."""

    default: float
    """Of an applicant who is accepted and defaults."""
    refusal: float
    """Of an applicant who is refused and would have paid back."""

    def exact(self) -> float:
        """The threshold for exact probabilities: above it accepting costs more than refusing (Elkan 2001, IJCAI)."""
        return self.refusal / (self.refusal + self.default)


def cheapest(bad: np.ndarray, probability: np.ndarray, costs: Costs) -> float:
    """The threshold, from which on to refuse, that costs these people least; of several, the nearest to that for exact probabilities.

    bad: (people,) bool; probability: (people,). Refusing all of them may be a threshold of 0, refusing none one above 1.
    """
    distinct, places = np.unique(probability, return_inverse=True)
    of_bad, of_good = (np.bincount(places, each, len(distinct)) for each in (bad, ~bad))
    # Cut number k accepts the k lowest distinct probabilities.
    cost = costs.default * np.append(0.0, np.cumsum(of_bad)) + costs.refusal * np.append(0.0, np.cumsum(of_good[::-1]))[::-1]
    best = np.flatnonzero(cost <= cost.min() * (1 + 1e-12))
    below, above = np.append(0.0, distinct)[best], np.append(distinct, np.inf)[best]
    away = np.maximum(0.0, np.maximum(below - costs.exact(), costs.exact() - above))
    nearest = int(np.argmin(away))
    if below[nearest] < costs.exact() < above[nearest]:
        return costs.exact()
    middles = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2, [np.nextafter(max(1.0, distinct[-1]), 2.0)]])
    return float(middles[best[nearest]])


def outcomes(bad: np.ndarray, refused: np.ndarray, costs: Costs) -> Statistic:
    """Of a decision, per applicant: "refused", "defaults_accepted", "good_refused" (shares), "cost", and its difference from refusing "none" and "all"."""
    columns = {
        "refused": refused * 1.0,
        "defaults_accepted": (bad & ~refused) * 1.0,
        "good_refused": (~bad & refused) * 1.0,
        "none": costs.default * bad,
        "all": costs.refusal * ~bad,
    }
    columns["cost"] = costs.default * columns["defaults_accepted"] + costs.refusal * columns["good_refused"]
    columns |= {f"against_{other}": columns["cost"] - columns[other] for other in ("none", "all")}
    table = np.stack(list(columns.values()), axis=1)

    def found(weights: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(columns, (weights @ table / weights.sum(1, keepdims=True)).T, strict=True))

    return found


def cost_curve(bad: np.ndarray, probability: np.ndarray, costs: Costs, points: int = 200) -> list[tuple[float, float]]:
    """(share refused, cost per applicant) when the likeliest to default are refused first, from none to all, at most `points` of them."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])) + 1, len(bad))  # people of one probability are refused together
    count = np.concatenate([[0], ends])
    bad_refused = np.concatenate([[0], np.cumsum(bad[order])])[count]
    cost = (costs.default * (bad.sum() - bad_refused) + costs.refusal * (count - bad_refused)) / len(bad)
    kept = np.unique(np.linspace(0, len(count) - 1, points).round().astype(int))
    return [(float(count[i]) / len(bad), float(cost[i])) for i in kept]
