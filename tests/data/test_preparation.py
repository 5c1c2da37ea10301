"""New rows become features as those of the training split did."""

import csv
import json

import numpy as np
import pytest

from trainer.data.arrays import chosen_for_eval
from trainer.data.preparation import features
from trainer.data.tabular import Encoding, Missing, Tabular, Unseen
from trainer.errors import ConfigError


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(0)
    rows = [f"{random.normal():.4f},{random.choice(['red', 'green', 'blue'])},{i % 3},{i % 2}" for i in range(60)]
    rows[7] = "," + rows[7].split(",", 1)[1]
    (tmp_path / "table.csv").write_text("\n".join(["size,colour,doors,y", *rows]) + "\n")
    return tmp_path / "table.csv"


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("standardize", [True, False])
def test_rows_of_the_file_become_its_samples(table, encoding, standardize):
    data = Tabular(path=str(table), target="y", categorical=["doors"], missing=Missing.mean, encoding=encoding, standardize=standardize)
    preparation = json.loads(json.dumps(data.open("train").preparation))  # as a manifest gives it back
    chosen = chosen_for_eval(0, 60, 0, 0.1)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for split, mine in (("train", ~chosen), ("eval", chosen)):
        samples = data.open(split)
        found = features(preparation, [row for row, is_mine in zip(rows, mine, strict=True) if is_mine])
        np.testing.assert_allclose(found, samples.flat(0, len(samples))[0], atol=1e-6)
    assert preparation["target"] == "y"
    assert preparation["classes"] == ["0", "1"]


GOOD = {"size": 0.5, "colour": "red", "doors": 2}
BAD = [
    ({"colour": "mauve"}, "column 'colour', row 2: the category 'mauve' is not in the training split, which has: blue, green, red"),
    ({"colour": None}, "column 'colour', row 2: the cell is empty, and categories have no mean"),
    ({"size": "much"}, "column 'size', row 2: 'much' is not a number"),
    ({"size": "inf"}, "column 'size', row 2: is inf; it must be a finite number"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_cell_that_cannot_be_used(table, change, message):
    preparation = Tabular(path=str(table), target="y", missing=Missing.mean).open("train").preparation
    with pytest.raises(ConfigError) as caught:
        features(preparation, [GOOD, GOOD | change])
    assert str(caught.value) == message
    with pytest.raises(ConfigError, match=r"^column 'doors', row 1: there is no such column; the row has: size, colour$"):
        features(preparation, [{"size": 1, "colour": "red"}])


def test_an_unseen_category_may_be_none_of_the_known(table):
    preparation = Tabular(path=str(table), target="y", missing=Missing.mean, unseen=Unseen.zero).open("train").preparation
    assert features(preparation, [GOOD | {"colour": "mauve"}])[0, 1:4].tolist() == [0, 0, 0]


def test_an_empty_number_has_the_mean_or_is_refused(table):
    samples = Tabular(path=str(table), target="y", missing=Missing.mean).open("train")
    for empty in (None, "", float("nan")):
        assert features(samples.preparation, [GOOD | {"size": empty}])[0, 0] == 0
    strict = Tabular(path=str(table), target="y", features=["colour", "doors"]).open("train").preparation
    with pytest.raises(ConfigError, match=r"^column 'doors', row 1: the cell is empty, and the data was prepared without data.missing=mean$"):
        features(strict, [{"colour": "red", "doors": None}])
