"""Samples of a table know their row in the file, and what that row holds."""

import numpy as np
import pandas as pd
import pytest

from trainer.data.tabular import Encoding, Tabular
from trainer.errors import ConfigError

ROWS = 500


@pytest.fixture(scope="module")
def frame():
    """A number, a colour, a class, and columns that are no features: a sex in words with gaps, an age with gaps."""
    random = np.random.default_rng(0)
    sexes = random.choice(["female", "male"], ROWS).astype(object)
    sexes[::17] = None
    ages = random.integers(18, 90, ROWS).astype(float)
    ages[::13] = np.nan
    colours = random.choice(["red", "gr=een", "blue"], ROWS)
    return pd.DataFrame({"size": random.normal(size=ROWS), "sex": sexes, "colour": colours, "age": ages, "level": random.choice(["high", "low"], ROWS)})


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path, frame):
    place = tmp_path / f"table.{request.param}"
    if request.param == "csv":
        frame.to_csv(place, index=False)
    else:
        frame.to_parquet(place, row_group_size=37)
    return place


def knobs(path, **more):
    return Tabular(**{"path": str(path), "target": "level", "features": ["size", "colour"], "eval_fraction": 0.3, "standardize": False} | more)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_each_sample_is_traced_to_its_row(path, frame, split):
    samples = knobs(path).open(split)
    numbers = samples.row_numbers
    assert numbers.dtype == np.int64
    assert isinstance(numbers, np.memmap)
    np.testing.assert_array_equal(samples.batch(range(len(samples)))["features"][:, 0].numpy(), frame["size"].to_numpy()[numbers].astype(np.float32))
    assert samples.row_number(3) == numbers[3]
    assert samples.source == path


def test_the_splits_hold_each_row_once(path):
    both = [knobs(path).open(split).row_numbers for split in ("train", "eval")]
    assert sorted(np.concatenate(both).tolist()) == list(range(ROWS))


def test_raw_values_of_columns_that_are_no_features(path, frame):
    samples = knobs(path).open("train")
    indices = [200, 3, 3, 0, 311]
    found = samples.raw(["age", "sex"], indices)
    expected = frame.iloc[samples.row_numbers[indices]]
    np.testing.assert_array_equal(found["age"], expected["age"].to_numpy())
    assert found["sex"].tolist() == [None if pd.isna(sex) else sex for sex in expected["sex"]]
    whole = samples.raw(["sex", "level"])
    assert [len(values) for values in whole.values()] == [len(samples)] * 2
    assert whole["level"].tolist() == frame["level"].to_numpy()[samples.row_numbers].tolist()


def test_raw_values_come_from_the_file_of_the_split(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame[::-1].to_csv(tmp_path / "b.csv", index=False)
    samples = knobs(tmp_path / "a.csv", eval_path=str(tmp_path / "b.csv")).open("eval")
    assert samples.raw(["size"], [0])["size"][0] == frame["size"].iloc[-1]


def test_features_know_their_column_and_category(path):
    samples = knobs(path).open("train")
    assert samples.columns == (("size", None), ("colour", "blue"), ("colour", "gr=een"), ("colour", "red"))
    assert samples.spec["feature_names"] == ["size", "colour=blue", "colour=gr=een", "colour=red"]
    colours = samples.raw(["colour"], range(20))["colour"]
    for feature, values in zip(samples.columns[1:], samples.batch(range(20))["features"].T[1:], strict=True):
        assert values.tolist() == [float(colour == feature.category) for colour in colours]
    assert knobs(path, encoding=Encoding.ordinal).open("train").columns == (("size", None), ("colour", None))


def test_what_cannot_be_read_again(path):
    samples = knobs(path).open("eval")
    with pytest.raises(ConfigError) as caught:
        samples.raw(["weight"], [0])
    assert str(caught.value) == f"{path}: has no column 'weight'; it has: size, sex, colour, age, level"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigError) as caught:
        samples.raw(["age"], [0])
    assert str(caught.value) == f"{path}: has changed since the data was opened; open it again"
