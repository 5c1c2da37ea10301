"""How good probabilities of default are: metrics of many resamples of the same people at once, in numpy.

In all of these: bad (people,) bool, who defaults; probability (people,) fp64 of that; weights (resamples, people), how often each
person counts. A metric is (resamples,), NaN for a resample that it is not defined for, such as one without a default.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 10

Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From weights to named figures, each (resamples,)."""


def quality(bad: np.ndarray, probability: np.ndarray) -> Statistic:
    """The metrics of the report: "auc", "brier", "ks" and "ece"."""
    order, starts = _tied(probability)
    gaps = _gaps(bad, probability)

    def found(weights: np.ndarray) -> dict[str, np.ndarray]:
        auc, ks = _ranked((weights * bad)[:, order], (weights * ~bad)[:, order], starts)
        brier = weights @ (probability - bad) ** 2 / weights.sum(1)
        return {"auc": auc, "brier": brier, "ks": ks, "ece": np.abs(weights @ gaps).sum(1) / weights.sum(1)}

    return found


def _tied(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the order of rising scores, where in it each distinct score begins)."""
    order = np.argsort(score, kind="stable")
    return order, np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)


def _ranked(bad: np.ndarray, good: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(area under the ROC curve, Kolmogorov-Smirnov statistic) from weights in order of rising scores; ties count half.

    The area is the Mann-Whitney statistic (Hanley and McNeil 1982, Radiology 143(1)).
    """
    bad, good = (np.add.reduceat(each, starts, axis=1) for each in (bad, good))
    bads, goods = bad.sum(1), good.sum(1)
    below = np.cumsum(good, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (bad * (below - good / 2)).sum(1) / (bads * goods)
        ks = np.abs(np.cumsum(bad, axis=1) / bads[:, None] - below / goods[:, None]).max(1)
    return auc, ks


def bin_edges(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """At most `bins` + 1 rising edges of bins that hold about as many people each, which suits few defaults better than equal widths."""
    return np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)))


def bin_places(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(people,) the bin of each; as in scikit-learn's `calibration_curve`, who is on an edge is in the bin below."""
    return np.searchsorted(edges[1:-1], probability)


def _gaps(bad: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(people, bins) what each person's prediction is too high by, in his bin.

    The mean over people of its absolute sums is the expected calibration error: the distance of predicted and observed share, over bins (Naeini et al.
    2015, AAAI).
    """
    edges = bin_edges(probability)
    inside = bin_places(probability, edges)[:, None] == np.arange(max(len(edges) - 1, 1))
    return (probability - bad)[:, None] * inside


def calibration(bad: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """The calibration curve: of each bin that holds anybody the people, the mean prediction, and the share that defaults with its Wilson interval."""
    places = bin_places(probability, bin_edges(probability))
    curve = []
    for place in np.unique(places):
        inside = places == place
        people, defaults = int(inside.sum()), int(bad[inside].sum())
        low, high = wilson(defaults, people)
        curve.append({"people": people, "predicted": float(probability[inside].mean()), "observed": defaults / people, "low": low, "high": high})
    return curve


def wilson(count: int, of: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The score interval of a share, 95 % by default (Wilson 1927, JASA 22(158)): sensible for few, and for none."""
    share, extra = count / of, z * z / of
    middle, half = share + extra / 2, z * np.sqrt(share * (1 - share) / of + extra / (4 * of))
    return max(0.0, float((middle - half) / (1 + extra))), min(1.0, float((middle + half) / (1 + extra)))


def exact_ece(probability: np.ndarray, draws: int = 1000, seed: int = 0) -> float:
    """What the expected calibration error of exact probabilities would stay below 95 times of 100, with so many people.

    With few people it is not 0 for a perfect model either (consistency resampling: Broecker and Smith 2007, Weather and Forecasting 22(3)).
    """
    generator = np.random.default_rng(seed)
    edges = bin_edges(probability)
    inside = bin_places(probability, edges)[:, None] == np.arange(max(len(edges) - 1, 1))
    errors = []
    for count in pieces(draws, len(probability)):
        gap = probability - (generator.random((count, len(probability))) < probability)
        errors.append(np.abs(gap @ inside.astype(np.float64)).sum(1) / len(probability))
    return float(np.quantile(np.concatenate(errors), 0.95))


def pieces(total: int, width: int, cells: int = 1 << 22) -> list[int]:
    """`total` rows cut so that none takes much more than `cells` cells of `width`."""
    rows = max(1, cells // max(width, 1))
    return [min(rows, total - done) for done in range(0, total, rows)]
