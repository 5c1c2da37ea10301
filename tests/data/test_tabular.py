import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.arrays import chosen_for_eval
from trainer.data.tabular import Encoding, Missing, Tabular, Task
from trainer.errors import ConfigError


def opened(path, split="train", **knobs):
    data = Tabular(path=str(path), **knobs)
    data.validate()
    return data.open(split)


@pytest.fixture
def table(tmp_path):
    """100 rows: a number, a colour, and a class that depends on the number."""
    path = tmp_path / "table.csv"
    rows = [f"{i / 10},{('red', 'green', 'blue')[i % 3]},{'high' if i >= 50 else 'low'}" for i in range(100)]
    path.write_text("\n".join(["size,colour,level", *rows]) + "\n")
    return path


def test_csv_rows_are_standardised_on_the_training_split(table):
    train, evaluation = opened(table, target="level"), opened(table, "eval", target="level")
    is_eval = chosen_for_eval(0, 100, 0, 0.1)
    assert (len(train), len(evaluation)) == (int((~is_eval).sum()), int(is_eval.sum()))
    assert 3 <= len(evaluation) <= 20
    assert train.spec == {"features": 4, "classes": 2, "feature_names": ["size", "colour=blue", "colour=green", "colour=red"]}
    sizes = np.arange(100) / 10
    fitted = sizes[~is_eval]
    expected = ((sizes - fitted.mean()) / fitted.std()).astype(np.float32)
    got = [float(evaluation[i]["features"][0]) for i in range(len(evaluation))]
    np.testing.assert_allclose(got, expected[is_eval], rtol=1e-6, atol=1e-7)
    first = int((~is_eval).argmax())
    assert train[0]["features"][1:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]][first % 3]
    assert (train[0]["labels"].dtype, train[0]["features"].dtype) == (np.int64, np.float32)
    assert train.describe()["class_names"] == ["high", "low"]


def test_batch_equals_collated_samples(table):
    samples = opened(table, target="level")
    batch, collated = samples.batch([3, 0, 7]), samples.collate([samples[3], samples[0], samples[7]])
    assert batch.keys() == collated.keys()
    for key in batch:
        assert batch[key].dtype == collated[key].dtype
        assert batch[key].tolist() == collated[key].tolist()


def test_regression_ordinal_and_chosen_features(table):
    samples = opened(table, target="size", task=Task.regression, features=["level", "colour"], encoding=Encoding.ordinal)
    assert samples.spec == {"features": 2, "feature_names": ["level", "colour"]}
    kept = np.flatnonzero(~chosen_for_eval(0, 100, 0, 0.1))
    batch = samples.batch(range(len(samples)))
    np.testing.assert_array_equal(batch["labels"].numpy(), (kept / 10).astype(np.float32))
    assert batch["features"][:, 1].tolist() == [[2, 1, 0][i % 3] for i in kept]


def test_parquet_equals_csv_and_nulls_take_the_mean(tmp_path, table):
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    columns = {"size": [float(a) for a, _, _ in lines], "colour": [b for _, b, _ in lines], "level": [c for _, _, c in lines]}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet", row_group_size=30)
    a, b = opened(table, target="level"), opened(tmp_path / "table.parquet", target="level")
    assert a.fingerprint == b.fingerprint
    assert a[5]["features"].tolist() == b[5]["features"].tolist()
    columns["size"][int(np.flatnonzero(~chosen_for_eval(0, 100, 0, 0.1))[0])] = None
    pq.write_table(pa.table(columns), tmp_path / "holes.parquet")
    samples = opened(tmp_path / "holes.parquet", target="level", missing=Missing.mean)
    assert samples[0]["features"][0] == 0  # the mean itself, standardised
    samples = opened(tmp_path / "holes.parquet", target="level", missing=Missing.mean, standardize=False, features=["size"])
    rest = samples.batch(range(1, len(samples)))["features"][:, 0].double()
    assert float(samples[0]["features"][0]) == pytest.approx(float(rest.mean()), rel=1e-6)


def test_numeric_classes_are_in_order_of_value_and_eval_path_is_the_eval_split(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,10\n2,9\n3,100\n")
    (tmp_path / "b.csv").write_text("y,x\n100,5\n")
    knobs = {"target": "y", "eval_path": str(tmp_path / "b.csv"), "standardize": False}
    train, evaluation = opened(tmp_path / "a.csv", **knobs), opened(tmp_path / "a.csv", "eval", **knobs)
    assert train.describe()["class_names"] == ["9", "10", "100"]
    assert train.batch([0, 1, 2])["labels"].tolist() == [1, 0, 2]
    assert (evaluation[0]["features"].tolist(), int(evaluation[0]["labels"])) == ([5.0], 2)
    assert train.describe()["class_entropy"] == pytest.approx(np.log(3))


def test_large_files_are_read_in_several_batches(tmp_path):
    count = 150_000
    path = tmp_path / "long.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(count)))
    train, evaluation = opened(path, target="y"), opened(path, "eval", target="y")
    assert len(train) + len(evaluation) == count
    values = train.batch(range(len(train)))["features"].double()
    assert abs(float(values.mean())) < 1e-6
    assert float(values.std(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_the_second_open_reads_nothing_but_the_cache(table, monkeypatch):
    first = opened(table, target="level")
    monkeypatch.setattr("trainer.data.table_write.write_table", None)
    assert opened(table, target="level").fingerprint == first.fingerprint


def test_split_is_stable():
    assert np.flatnonzero(chosen_for_eval(0, 60, 0, 0.1)).tolist() == [34, 55, 57]
    assert chosen_for_eval(20, 40, 0, 0.1).tolist() == chosen_for_eval(0, 60, 0, 0.1)[20:].tolist()
    assert chosen_for_eval(0, 60, 1, 0.1).tolist() != chosen_for_eval(0, 60, 0, 0.1).tolist()
    assert chosen_for_eval(0, 100_000, 0, 0.1).mean() == pytest.approx(0.1, abs=0.005)


CSV_ERRORS = {
    "x,y\n1,a\n,b\n": "{path}: column 'x', row 2: the cell is empty; data.missing=mean takes the training split's mean",
    "x,y\n1,a\n2,\n": "{path}: column 'y', row 2: the cell is empty; every row needs a target",
    "x,y\n1,a\ninf,b\n": "{path}: column 'x', row 2: is infinite",
    "x,y\n1,a\n2\n": "{path}: is broken: CSV parse error: Row #3: Expected 2 columns, got 1: 2",
    "": "{path}: is broken: Empty CSV file",
    "x,y\n": "{path}: has no rows",
    "x,x\n1,2\n": "{path}: has two columns of one name: x, x",
    "x,z\n1,2\n": "data.target: {path} has no column 'y'; it has: x, z",
    "y\n1\n": "data.features: {path} has no column but the target 'y'",
}


@pytest.mark.parametrize(("content", "message"), CSV_ERRORS.items())
def test_broken_csv(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        opened(path, target="y", eval_fraction=1e-9)
    assert str(caught.value) == message.format(path=path)


def test_a_category_that_training_has_not_seen(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\nred,a\nblue,b\n")
    (tmp_path / "b.csv").write_text("x,y\nred,a\nmauve,b\n")
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "a.csv", target="y", eval_path=str(tmp_path / "b.csv"))
    told = f"{tmp_path / 'b.csv'}: column 'x', row 2: the category 'mauve' is not in the training split"
    assert str(caught.value) == f"{told}; data.unseen=zero lets it in as a row that has none of the column's one-hot features"


def test_text_far_down_in_a_column_of_numbers(tmp_path):
    path = tmp_path / "late.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(200_000)) + "many,1\n")
    with pytest.raises(ConfigError) as caught:
        opened(path, target="y")
    assert str(caught.value) == f"{path}: column 'x', row 200001: 'many' is not a number; to take the column as categories: data.categorical=[x]"


def test_regression_on_text(table):
    with pytest.raises(ConfigError) as caught:
        opened(table, target="level", task=Task.regression)
    assert str(caught.value) == f"data.target=level: data.task=regression needs numbers, and the column in {table} holds text"


def test_broken_and_absent_files(tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ConfigError, match=f"^{path}: is broken: "):
        opened(path, target="y")
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "none.csv", target="y")
    assert str(caught.value) == f"{tmp_path / 'none.csv'}: cannot be read: No such file or directory"


VALIDATION = [
    ({"path": "a.xls", "target": "y"}, "data.path=a.xls: must be a .csv or .parquet file"),
    ({"path": "a.csv", "eval_path": "b.txt", "target": "y"}, "data.eval_path=b.txt: must be a .csv or .parquet file"),
    ({"path": "a.csv", "target": "y", "eval_fraction": 1.0}, "data.eval_fraction=1.0: must be above 0 and below 1, unless data.eval_path is given"),
    ({"path": "a.csv", "target": "y", "features": ["y"]}, "data.features=['y']: must not hold data.target=y"),
]


@pytest.mark.parametrize(("knobs", "message"), VALIDATION)
def test_impossible_knobs(knobs, message):
    with pytest.raises(ConfigError) as caught:
        Tabular(**knobs).validate()
    assert str(caught.value) == message
