"""The profile's figures against data of known dimension, scipy and scikit-learn, and the command on a table."""

import json
import re

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist, squareform
from sklearn.datasets import make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.commands import run, run_without_torch
from tests.data.fits import matrix, samples
from trainer.data import curse
from trainer.data.against_components import against_components, numbers
from trainer.data.decompose import WIDE, spectrum
from trainer.data.moments import Rows
from trainer.data.profile import fewest, lines, profile
from trainer.data.ranks import Alone
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.errors import ConfigError


def flat(dimension, rows=3000, features=20):
    """Rows even in a cube of `dimension`, laid into more features."""
    random = np.random.default_rng(dimension)
    return random.uniform(size=(rows, dimension)) @ np.linalg.qr(random.normal(size=(features, features)))[0][:dimension]


@pytest.mark.parametrize(("rows", "dimension"), [(flat(1), 1), (flat(2), 2), (flat(5), 5), (make_swiss_roll(3000, random_state=0)[0], 2)])
def test_intrinsic_dimension_of_known_surfaces(rows, dimension):
    found = curse.two_nn(rows)
    assert found["dimension"] == pytest.approx(dimension, rel=0.12)
    assert found["low"] < found["dimension"] < found["high"] < 1.15 * found["low"]
    assert (found["rows"], found["duplicates"]) == (3000, 0)


def test_intrinsic_dimension_leaves_duplicates_out():
    rows = flat(2, rows=400)
    twice = curse.two_nn(np.concatenate([rows, rows[:100]]))
    assert twice == {**curse.two_nn(rows), "duplicates": 100}
    assert curse.two_nn(np.ones((50, 3))) is None


def test_neighbours_are_those_of_a_tree():
    rows = flat(3, rows=700)
    rows[::2] += 1e4  # products alone have few digits left of what is near then
    expected = cKDTree(rows).query(rows, 3)[0][:, 1:]
    np.testing.assert_allclose(np.stack(curse._nearest_two(rows), 1), expected, rtol=1e-9)
    ratios = np.sort(expected[:, 1] / expected[:, 0])[:630]
    slope = np.linalg.lstsq(np.log(ratios)[:, None], -np.log(1 - np.arange(1, 631) / 700), rcond=None)[0]
    assert curse.two_nn(rows)["dimension"] == pytest.approx(slope[0], rel=1e-9)


def test_pareto_exponent_of_drawn_ratios():
    assert curse.pareto_exponent(np.sort(np.random.default_rng(0).pareto(7, 100_000) + 1)) == pytest.approx(7, rel=0.02)


def test_concentration_is_that_of_all_pairs():
    rows = np.insert(matrix(60, 5), 2, 3.0, axis=1)
    rows[7] = rows[8]
    found, apart = curse.concentration(rows), squareform(pdist(rows))
    nearest = [np.sort(row[row > 0])[0] for row in apart]
    assert found["relative_contrast"] == pytest.approx(np.mean((apart.max(1) - nearest) / nearest), rel=1e-9)
    assert found["variation"] == pytest.approx(pdist(rows).std() / pdist(rows).mean(), rel=1e-9)
    assert (found["features"], sum(found["density"])) == (5, pytest.approx((pdist(rows) < 2 * pdist(rows).mean()).mean()))
    assert curse.concentration(np.ones((9, 2))) is None


def test_independent_features_concentrate():
    few, many = (curse.concentration(np.random.default_rng(5).normal(size=(300, count))) for count in (2, 1000))
    for found in (few, many):
        assert found["variation"] == pytest.approx(found["gaussian"]["variation"], rel=0.1)
    assert many["variation"] == pytest.approx((2 * 1000) ** -0.5, rel=0.1)  # of a chi distribution: 1 / sqrt(2 n)
    assert many["relative_contrast"] < 0.3 < 5 < few["relative_contrast"]


@pytest.mark.parametrize("wide", [WIDE, 8])
def test_spectrum_is_that_of_scikit_learn(wide):
    values = matrix(300, 30)
    shares, variances = spectrum(Rows(samples(values), ["x"] * 30, Alone()), wide, most=10)
    np.testing.assert_allclose(shares[:10], PCA(10, svd_solver="full").fit(values).explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(variances, values.var(0), rtol=1e-9)


def test_numbers_of_components_to_try():
    assert numbers(1) == [1]
    assert numbers(2) == [1, 2]
    assert numbers(9) == [1, 2, 3, 5, 8, 9]
    assert numbers(13) == [1, 2, 3, 5, 8, 13]


LABELS = {
    "AUC": lambda scores: (scores > 0).astype(np.int64),
    "accuracy": lambda scores: np.digitize(scores, [-1, 1]),
    "R2": lambda scores: scores.astype(np.float32),
}


@pytest.mark.parametrize("metric", LABELS)
def test_metric_against_components_is_cross_validated(metric):
    rows = matrix(150, 6)
    labels = LABELS[metric](rows @ [1, -2, 0, 1, 3, 1] - rows.sum(1).mean())
    found = against_components(rows, labels)
    assert (found["metric"], found["rows"], found["components"]) == (metric, 150, [1, 2, 3, 5, 6])
    classes = metric != "R2"
    splitter = (StratifiedKFold if classes else KFold)(5, shuffle=True, random_state=0)
    linear, near = (LogisticRegression(max_iter=200), KNeighborsClassifier(5)) if classes else (Ridge(), KNeighborsRegressor(5))
    scoring = {"AUC": "roc_auc", "accuracy": "accuracy", "R2": "r2"}[metric]
    for place, count in enumerate(found["components"]):
        models = (make_pipeline(PCA(count), StandardScaler(), linear), make_pipeline(PCA(count), near))
        for scores, model in zip(found["models"].values(), models, strict=True):
            expected = cross_val_score(model, rows, labels, cv=splitter, scoring=scoring)
            assert scores["mean"][place] == pytest.approx(expected.mean(), abs=2e-3)
            assert scores["deviation"][place] == pytest.approx(expected.std(), abs=2e-3)


def test_there_is_no_metric_without_enough_rows_of_two_classes():
    rows = matrix(40, 3)
    labels = np.where(np.arange(40) < 4, 1, 0)
    assert against_components(rows, labels) == {"reason": "fewer than two classes have 5 rows, of 40 that were looked at"}
    assert "labels are all the same" in against_components(rows, np.ones(40, np.float32))["reason"]
    labels[:12] = np.repeat([1, 2, 3], 4)
    labels[12:20] = 4
    found = against_components(rows, labels)
    assert (found["rows"], found["left_out"]) == (28, 12)


def test_the_fewest_components_that_are_as_good():
    assert fewest([0.5, 0.79, 0.8, 0.78], [0.1, 0.0, 0.04, 0.0], 4) == 1
    assert fewest([0.5, 0.77, 0.8, 0.78], [0.1, 0.0, 0.04, 0.0], 4) == 2


@pytest.fixture
def table(tmp_path):
    values = matrix(120, 6)
    lines = [",".join([*(f"{x:.6f}" for x in row), "3", "yes" if row[0] > row[1] else "no"]) for row in values]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,d,e,f,same,y", *lines]) + "\n")
    return ["data=tabular", "data.path=table.csv", "data.target=y"]


def test_the_command(tmp_path, table):
    done = run("profile", *table, "data.reduce=pca", "data.components=2", "run_dir=out", cwd=tmp_path, module="trainer.data")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "profile.json").read_text())
    page = (tmp_path / "out" / "profile.html").read_text()
    assert found["constant"] == ["same"]
    assert found["components_for"]["0.95"] == PCA(0.95, svd_solver="full").fit(StandardScaler().fit_transform(np.loadtxt(_training(tmp_path)))).n_components_
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == ["data", "PCA", "TwoNN", "distances", "AUC", "AUC", "reduced", "report"]
    assert said[0] == f"data        {found['rows']} rows of 7 features, {found['rows'] / 7:.3g} rows a feature; 1 features are constant"
    assert re.findall(r"<h3>([^<]*)</h3>", page) == [
        "Explained variance against components",
        "AUC against components kept",
        "Share of distances, in % of their mean",
    ]
    assert not re.search(r"""(src|href)=["'](?!data:,)""", page)  # self-contained
    assert "at component 1, " in page
    assert "pca: 2 of 7 features" in done.stdout


def _training(place):
    """The numbers of the training split, as text."""
    from trainer.data.arrays import chosen_for_eval

    kept = ~chosen_for_eval(0, 120, 0, 0.1)
    return [" ".join(line.split(",")[:6]) for line, mine in zip((place / "table.csv").read_text().splitlines()[1:], kept, strict=True) if mine]


def test_text_is_not_profiled(tmp_path):
    done = run_without_torch("profile", "data=stdlib", cwd=tmp_path, module="trainer.data")
    expected = "error: data: StandardLibrary has no rows of features to profile; choose data=tabular, images or synthetic\n"
    assert (done.returncode, done.stderr) == (2, expected)


REFUSED = [
    ({}, "data: needs a table or images with a class each, and has seq_len, vocab_size"),
    (
        {"kind": SyntheticKind.tabular, "samples": 1},
        "data: all 16 features are constant over the 1 rows of the training split; there is nothing to profile",
    ),
]


@pytest.mark.parametrize(("knobs", "message"), REFUSED)
def test_data_that_cannot_be_profiled(knobs, message):
    with pytest.raises(ConfigError) as caught:
        profile(Synthetic(**knobs))
    assert str(caught.value) == message


def test_few_rows_of_many_features():
    found = profile(Synthetic(kind=SyntheticKind.tabular, samples=12, features=10_000, classes=2))
    assert (found["rows"], found["features"], len(found["shares"])) == (12, 10_000, 12)
    assert sum(found["shares"]) == pytest.approx(1)
    assert lines(found)[1].startswith("PCA         9 components explain 80 % of the variance, 11 explain 95 %")


def test_an_unknown_command(tmp_path):
    done = run_without_torch("profil", cwd=tmp_path, module="trainer.data")
    assert (done.returncode, done.stderr) == (2, "usage: python -m trainer.data {profile,validate,split,card} data=... [key=value ...]\n")
