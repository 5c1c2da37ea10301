"""Metrics and their intervals are those of scikit-learn and scipy, one resample after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.assess import sure
from trainer.assess.quality import bin_edges, bin_places, calibration, exact_ece, quality, wilson
from trainer.posttrain import bootstrap

metrics = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")
curve = pytest.importorskip("sklearn.calibration").calibration_curve


def people(count: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(who defaults, probabilities that know something of it)."""
    draw = np.random.default_rng(seed)
    probability = draw.beta(1, 3, count)
    bad = draw.random(count) < probability
    return bad, (np.round(probability, 1) if ties else probability)


def ece(bad: np.ndarray, probability: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> float:
    """One bin after the other, as it is defined."""
    total = 0.0
    for i in range(len(edges) - 1):
        inside = (probability > edges[i] if i else probability >= edges[0]) & (probability <= edges[i + 1])
        if weights[inside].sum():
            total += weights[inside].sum() / weights.sum() * abs(np.average((probability - bad)[inside], weights=weights[inside]))
    return total


def reference(bad: np.ndarray, probability: np.ndarray, counts: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    """Of people who count as often as `counts` says."""
    labels, scores = np.repeat(bad, counts), np.repeat(probability, counts)
    return {
        "auc": metrics.roc_auc_score(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "ks": stats.ks_2samp(scores[labels], scores[~labels]).statistic,
        "ece": ece(bad, probability, counts, edges),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_resamples(ties, seed):
    bad, probability = people(120, seed, ties)
    counts = np.random.default_rng(seed).multinomial(120, np.full(120, 1 / 120), size=8)
    found = quality(bad, probability)(counts.astype(float))
    for i, row in enumerate(counts):
        for name, value in reference(bad, probability, row, bin_edges(probability)).items():
            assert found[name][i] == pytest.approx(value, abs=1e-12), name


def test_a_resample_without_a_default_has_no_auc_and_is_left_out():
    bad, probability = np.array([True, False, False]), np.array([0.7, 0.2, 0.4])
    found = quality(bad, probability)(np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
    assert np.isnan(found["auc"]).tolist() == [True, False]
    assert np.isnan(found["ks"]).tolist() == [True, False]
    assert np.isfinite(found["brier"]).all()
    drawn = np.append(np.full(30, np.nan), np.linspace(0, 1, 970))
    assert sure.interval(0.5, drawn, floored=False)["high"] == pytest.approx(0.975)
    assert sure.interval(0.5, np.append(drawn, np.full(70, np.nan)), floored=False) == {"value": 0.5, "low": None, "high": None}
    assert sure.interval(float("nan"), drawn, floored=False)["value"] is None


def test_intervals_are_those_of_the_same_people_one_by_one():
    bad, probability = people(60, 1, ties=False)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(60, (bootstrap.RESAMPLES, 60), generator=generator).numpy()
    ranks, defaults = stats.rankdata(probability[drawn], axis=1), bad[drawn].sum(1)
    areas = ((ranks * bad[drawn]).sum(1) - defaults * (defaults + 1) / 2) / (defaults * (60 - defaults))  # Mann and Whitney's U
    errors = ((probability - bad)[drawn] ** 2).mean(1)
    found = sure.intervals(quality(bad, probability), 60, ["ece", "ks"])
    assert [found["auc"][key] for key in ("low", "high")] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist(), abs=1e-12)
    assert [found["brier"][key] for key in ("low", "high")] == pytest.approx(np.quantile(errors, [0.025, 0.975]).tolist(), abs=1e-12)
    for name in ("ece", "ks"):  # never below the value by more than above it
        one = found[name]
        assert one["low"] == pytest.approx(max(0.0, 2 * one["value"] - one["high"]))


def test_pieces_change_nothing(monkeypatch):
    whole = torch.cat(list(bootstrap.resamples(37)))
    assert whole.shape == (bootstrap.RESAMPLES, 37)
    assert (whole.sum(1) == 37).all()
    monkeypatch.setattr(bootstrap, "CELLS", 37 * 300)
    pieces = list(bootstrap.resamples(37))
    assert [len(piece) for piece in pieces] == [300] * 6 + [200]
    assert torch.equal(torch.cat(pieces), whole)


def test_differences_are_of_pairs():
    bad, probability = people(200, 2, ties=False)
    worse = np.random.default_rng(0).random(200)
    statistic = sure.compared({"one": quality(bad, probability), "same": quality(bad, probability), "worse": quality(bad, worse)})
    found = sure.nested(sure.intervals(statistic, 200))
    assert found["same"]["auc/difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["worse"]["auc/difference"]["low"] > 0.1
    assert found["worse"]["auc/difference"]["value"] == pytest.approx(found["one"]["auc"]["value"] - found["worse"]["auc"]["value"])
    assert "auc/difference" not in found["one"]


@pytest.mark.parametrize("ties", [False, True])
def test_the_calibration_curve(ties):
    bad, probability = people(300, 4, ties)
    found = calibration(bad, probability)
    if not ties:  # with them, several quantiles are one edge
        observed, predicted = curve(bad, probability, n_bins=10, strategy="quantile")
        assert [point["observed"] for point in found] == pytest.approx(observed.tolist())
        assert [point["predicted"] for point in found] == pytest.approx(predicted.tolist())
    assert sum(point["people"] for point in found) == 300
    (point,) = calibration(bad, np.full(300, 0.3))
    assert (point["people"], point["predicted"], point["observed"]) == (300, pytest.approx(0.3), bad.mean())
    assert (point["low"], point["high"]) == wilson(bad.sum(), 300)
    assert bin_places(np.full(3, 0.3), bin_edges(np.full(3, 0.3))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("count", "of"), [(0, 12), (12, 12), (3, 40), (150, 300)])
def test_wilson(count, of):
    expected = stats.binomtest(count, of).proportion_ci(method="wilson")
    assert wilson(count, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_exact_probabilities_are_off_by_no_more_than_told_95_times_of_100():
    draw = np.random.default_rng(5)
    probability = draw.beta(1, 3, 250)
    limit, edges = exact_ece(probability), bin_edges(probability)
    below = [ece(draw.random(250) < probability, probability, np.ones(250), edges) <= limit for _ in range(400)]
    assert 0.92 <= np.mean(below) <= 0.98
    assert exact_ece(np.repeat([0.0, 1.0], 50)) == 0.0
    assert exact_ece(np.tile(probability, 20)) < limit / 3
