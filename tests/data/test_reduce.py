"""Reductions against scikit-learn's, on one rank and several, and what they are given that cannot be reduced."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA, TruncatedSVD

from tests import ranks
from tests.commands import run_without_torch
from tests.data.fits import CASES, fitted, fitted_by_all, matrix, refused_by_all
from tests.data.stored import Stored
from trainer.data.arrays import chosen_for_eval
from trainer.data.decompose import WIDE
from trainer.data.images import Images
from trainer.data.reduce import Reduce
from trainer.data.synthetic import Synthetic
from trainer.data.tabular import Tabular, Task
from trainer.errors import ConfigError

SIZES = {"more rows": (700, 60), "more features": (40, 90)}
SCIKIT = {Reduce.pca: lambda count: PCA(count, svd_solver="full"), Reduce.svd: lambda count: TruncatedSVD(count, algorithm="arpack")}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Rows come in many pieces."""
    monkeypatch.setattr("trainer.data.moments.CHUNK", 2000)
    monkeypatch.setattr("trainer.data.reduced.CHUNK", 200)


@pytest.mark.parametrize("wide", [WIDE, 8], ids=["exact", "randomised"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("method", [Reduce.pca, Reduce.svd])
def test_equals_scikit_learn(method, size, wide):
    values = matrix(*size)
    found, expected = fitted(values, wide, reduce=method, components=6), SCIKIT[method](6).fit(values)
    np.testing.assert_allclose(found.components, expected.components_, atol=1e-6)
    np.testing.assert_allclose(found.singular_values, expected.singular_values_, rtol=1e-6)
    np.testing.assert_allclose(found.shares, expected.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(found.apply(values), expected.transform(values), atol=1e-6)
    if method is Reduce.pca:
        np.testing.assert_allclose(found.mean, expected.mean_, atol=1e-12)


@pytest.mark.parametrize("wide", [WIDE, 8], ids=["exact", "randomised"])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_variance_chooses_as_many_as_scikit_learn(share, wide):
    values = matrix(300, 60)
    assert len(fitted(values, wide, reduce=Reduce.pca, variance=share)) == PCA(share, svd_solver="full").fit(values).n_components_
    kept = len(fitted(values, wide, reduce=Reduce.svd, variance=share))
    shares = TruncatedSVD(59, algorithm="arpack").fit(values).explained_variance_ratio_.cumsum()
    assert kept == int((shares >= share).argmax()) + 1


def test_a_large_mean_costs_no_digits():
    values = matrix(5000, 20) + 1e7
    found, expected = fitted(values, reduce=Reduce.pca, components=3), PCA(3, svd_solver="full").fit(values)
    np.testing.assert_allclose(found.components, expected.components_, atol=1e-6)
    np.testing.assert_allclose(found.singular_values, expected.singular_values_, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_the_same_on_several_ranks(count):
    values = matrix(331, 30)
    alone = [fitted(values, wide, **knobs).arrays() for wide, knobs in CASES]
    for scatter, found in ranks.run(count, fitted_by_all, values):
        np.testing.assert_allclose(scatter, np.cov(values.T, bias=True) * len(values), atol=1e-9)
        for arrays, expected in zip(found, alone, strict=True):
            for name, array in arrays.items():
                np.testing.assert_allclose(array, expected[name], atol=1e-9)


def test_a_value_that_is_not_finite_is_said_on_every_rank():
    values = matrix(50, 4)
    values[41, 2] = np.inf
    expected = "data.reduce: feature 'x2' is inf in row 42 of the training split; it must be a finite number"
    assert ranks.run(2, refused_by_all, values) == [expected] * 2


@pytest.fixture
def table(tmp_path):
    """200 rows of 5 numbers, a colour and a number to predict."""
    values, random = matrix(200, 5), np.random.default_rng(1)
    colours = random.choice(["red", "green", "blue"], 200)
    lines = [",".join([*map(repr, row.tolist()), colour, repr(float(row.sum()))]) for row, colour in zip(values, colours, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,d,e,colour,y", *lines]) + "\n")
    return str(tmp_path / "table.csv")


def test_a_table_is_reduced_as_its_training_split_says(table):
    knobs = {"path": table, "target": "y", "task": Task.regression, "eval_fraction": 0.3}
    whole = {split: Tabular(**knobs).open(split) for split in ("train", "eval")}
    data = Tabular(**knobs, reduce=Reduce.pca, variance=0.9)
    data.validate()
    expected = PCA(0.9, svd_solver="full").fit(whole["train"].flat(0, len(whole["train"]))[0].astype(np.float64))
    for split, original in whole.items():
        found = data.open(split)
        values, labels = original.flat(0, len(original))
        np.testing.assert_allclose(found.flat(0, len(found))[0], expected.transform(values), atol=1e-5)
        np.testing.assert_array_equal(found.batch([5, 3])["labels"], labels[[5, 3]])
        assert found.batch([5])["features"].numpy().tolist() == [found[5]["features"].tolist()]
        assert found.spec == {"features": expected.n_components_, "feature_names": [f"pc{i + 1}" for i in range(expected.n_components_)]}
        assert found.original[7]["features"].tolist() == original[7]["features"].tolist()
        assert found.reduction.names == ("a", "b", "c", "d", "e", "colour=blue", "colour=green", "colour=red")
    assert found.describe()["reduce"] == f"pca: {expected.n_components_} of 8 features, {expected.explained_variance_ratio_.sum():.1%} of the variance"
    fingerprints = {part.open("train").fingerprint for part in (data, Tabular(**knobs), Tabular(**knobs, reduce=Reduce.svd, variance=0.9))}
    assert len(fingerprints) == 3


def test_how_a_raw_row_becomes_the_features(table):
    for_table = Tabular(path=table, target="y", task=Task.regression, eval_fraction=0.3, reduce=Reduce.svd, components=2)
    found = for_table.open("eval")
    header, *lines = (line.split(",") for line in Path(table).read_text().splitlines())
    raw = [dict(zip(header, line, strict=True)) for line, chosen in zip(lines, chosen_for_eval(0, 200, 0, 0.3), strict=True) if chosen][4]
    row = []
    for column in found.preparation["columns"]:
        if "categories" in column:
            row += [float(raw[column["name"]] == category) for category in column["categories"]]
        else:
            row.append((float(raw[column["name"]]) - column["shift"]) / column["scale"])
    np.testing.assert_allclose(found.reduction.apply(np.array([row]))[0], found[4]["features"], atol=1e-6)


def test_images_become_flat_features():
    data = Images(reduce=Reduce.pca, components=10)
    data.validate()
    found = data.open("eval")
    assert found.spec == {"classes": 10, "features": 10, "feature_names": [f"pc{i}" for i in range(1, 11)]}
    pixels = np.stack([found.original[i]["images"].ravel() for i in range(len(found))])
    np.testing.assert_allclose(found.flat(0, len(found))[0], found.reduction.apply(pixels), atol=1e-6)
    assert found.reduction.names[9] == "c0y1x1"


def test_a_random_projection_keeps_distances_and_is_seeded():
    values = matrix(40, 500)
    found = fitted(values, reduce=Reduce.random_projection, components=300)
    pairs = np.triu_indices(40, 1)

    def distances(rows):
        return np.linalg.norm(rows[pairs[0]] - rows[pairs[1]], axis=1)

    ratio = distances(found.apply(values)) / distances(values)
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert ratio.std() < 0.06  # sqrt(1 / (2 x 300)) = 0.04 is expected
    again, other = (fitted(values, reduce=Reduce.random_projection, components=300, reduce_seed=seed) for seed in (0, 1))
    assert again.digest() == found.digest() != other.digest()


@pytest.mark.parametrize("method", Reduce)
def test_inverse_is_the_nearest_row(method):
    values = matrix(200, 12)
    found = fitted(values, reduce=method, components=4)
    back = found.inverse(found.apply(values))
    np.testing.assert_allclose(found.apply(back), found.apply(values), atol=1e-9)
    steps = np.linalg.lstsq(found.components, np.zeros(4), rcond=None)[0] + np.linalg.svd(found.components)[2][4:]  # along which nothing changes
    np.testing.assert_allclose((back - found.mean) @ steps.T, 0, atol=1e-9)


def test_ties_have_one_sign():
    column = np.random.default_rng(0).normal(size=(400, 1))
    for noise in range(5):
        values = np.concatenate([-column, column], 1) + 1e-13 * np.random.default_rng(noise).normal(size=(400, 2))
        np.testing.assert_allclose(fitted(values, reduce=Reduce.pca, components=1).components, [[0.5**0.5, -(0.5**0.5)]], atol=1e-6)


def test_constant_columns_have_no_weight():
    values = np.insert(matrix(100, 6), [0, 3], 7.0, axis=1)
    found = fitted(values, reduce=Reduce.pca, components=4)
    np.testing.assert_allclose(found.components[:, [0, 4]], 0, atol=1e-12)


KNOBS = [
    ({"components": 3}, "data.components=3: has no effect without data.reduce; give data.reduce=pca, svd or random_projection"),
    ({"variance": 0.9}, "data.variance=0.9: has no effect without data.reduce; give data.reduce=pca, svd or random_projection"),
    ({"reduce": Reduce.pca}, "data.reduce=pca: give one of data.components=N and data.variance=0.95"),
    ({"reduce": Reduce.svd, "components": 2, "variance": 0.9}, "data.reduce=svd: give one of data.components=N and data.variance=0.95"),
    ({"reduce": Reduce.random_projection}, "data.reduce=random_projection: give data.components=N"),
    ({"reduce": Reduce.random_projection, "variance": 0.9}, "data.variance=0.9: random_projection does not look at the data; give data.components=N"),
    ({"reduce": Reduce.pca, "components": 0}, "data.components=0: must be at least 1"),
    ({"reduce": Reduce.pca, "variance": 1.0}, "data.variance=1.0: must be above 0 and below 1, such as 0.95"),
    ({"reduce": Reduce.pca, "variance": float("nan")}, "data.variance=nan: must be above 0 and below 1, such as 0.95"),
    ({"reduce": Reduce.pca, "components": 2, "reduce_seed": 3}, "data.reduce_seed=3: has no effect without data.reduce=random_projection"),
    ({"reduce": Reduce.random_projection, "components": 2, "reduce_seed": -1}, "data.reduce_seed=-1: must be at least 0"),
]


@pytest.mark.parametrize(("knobs", "message"), KNOBS)
def test_impossible_knobs(knobs, message):
    for data in (Images(**knobs), Tabular(path="a.csv", target="y", **knobs)):
        with pytest.raises(ConfigError) as caught:
            data.validate()
        assert str(caught.value) == message


def test_tokens_are_not_reduced():
    with pytest.raises(ConfigError, match=r"data.reduce=pca: has no effect with data.kind=tokens"):
        Synthetic(reduce=Reduce.pca, components=2).validate()


DATA = [
    (matrix(0, 3), {"reduce": Reduce.pca, "components": 1}, "data.reduce=pca: needs at least 2 rows to be fitted on, and the training split has 0"),
    (matrix(1, 3), {"reduce": Reduce.svd, "components": 1}, "data.reduce=svd: needs at least 2 rows to be fitted on, and the training split has 1"),
    (matrix(9, 3), {"reduce": Reduce.pca, "components": 4}, "data.components=4: the data has 3 features; give at most 3"),
    (matrix(9, 3), {"reduce": Reduce.random_projection, "components": 4}, "data.components=4: the data has 3 features; give at most 3"),
    (matrix(3, 9), {"reduce": Reduce.pca, "components": 4}, "data.components=4: the 3 rows of the training split have no more directions; give at most 3"),
    (np.full((5, 3), 0.1), {"reduce": Reduce.pca, "variance": 0.9}, "data.reduce=pca: every feature of the training split is constant; leave data.reduce out"),
]


@pytest.mark.parametrize(("values", "knobs", "message"), DATA)
def test_data_that_cannot_be_reduced(values, knobs, message):
    with pytest.raises(ConfigError) as caught:
        fitted(values, **knobs)
    assert str(caught.value) == message


def test_too_many_components_for_the_variance_of_wide_data(monkeypatch):
    monkeypatch.setattr("trainer.data.decompose.MOST", 40)
    monkeypatch.setattr("trainer.data.decompose.PASSES", 1)
    with pytest.raises(ConfigError, match=r"^data.variance=0.99: the first 40 of 200 components explain \d+\.\d% of the variance; give data.components=N, or"):
        fitted(np.random.default_rng(0).normal(size=(300, 200)), 8, reduce=Reduce.pca, variance=0.99)


def test_an_infinity_in_the_eval_split_is_named(tmp_path):
    values = matrix(130, 2).astype("<f4")
    values.tofile(tmp_path / "a")
    values[120, 1] = -np.inf
    values.tofile(tmp_path / "b")
    data = Stored(path=f"{tmp_path}/a", eval_path=f"{tmp_path}/b", features=2, reduce=Reduce.pca, components=1)
    assert len(data.open("train")) == 130
    with pytest.raises(ConfigError) as caught:
        data.open("eval")
    assert str(caught.value) == "data.reduce: feature 'x1' is -inf in row 121 of the eval split; it must be a finite number"


def test_the_launching_process_fits_without_torch(tmp_path):
    done = run_without_torch("model=cnn", "data=synthetic", "data.kind=tabular", "data.reduce=svd", "data.components=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: model=cnn needs images, but the data has classes, feature_names, features. Choose data=images, or another model\n"
