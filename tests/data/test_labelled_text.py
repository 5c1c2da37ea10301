"""Texts with a class each: the same from CSV, Parquet and JSON lines, in the order of the file, and what cannot be is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trainer.data.labelled_text import LabelledText
from trainer.data.tokenized import TokenizerKind
from trainer.errors import ConfigError

WORDS = ["fine", "poor", "größe 漢字", 'said "so", he\nwent', "x"]
ROWS = [(f"{WORDS[number % 5]} {number}", ["bad", "good", "so-so"][number % 3]) for number in range(300)]


def written(path: Path, rows: list[tuple[Any, Any]], names: tuple[str, str] = ("text", "label")) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])
    elif path.suffix == ".parquet":
        pd.DataFrame(rows, columns=list(names)).to_parquet(path, row_group_size=70)
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows) + "\n\n", encoding="utf-8")
    return path


def opened(path: Path, split: str = "train", **knobs: Any) -> Any:
    data = LabelledText(path=str(path), **knobs)
    data.validate()
    return data.open(split)


def told(samples: Any) -> list[tuple[str, str]]:
    """The (text, class) of each sample."""
    names = samples.describe()["class_names"]
    return [(samples.decode(sample["input_ids"].tolist()), names[sample["labels"]]) for sample in (samples[number] for number in range(len(samples)))]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_text_keeps_its_class_and_lies_in_one_split(tmp_path, suffix):
    path = written(tmp_path / f"a.{suffix}", ROWS)
    train, held_out = told(opened(path)), told(opened(path, "eval"))
    assert sorted([*train, *held_out]) == sorted(ROWS)
    assert train == [row for row in ROWS if row in set(train)]  # in the order of the file
    assert 15 <= len(held_out) <= 50
    assert told(opened(path, "eval", seed=1)) != held_out
    if suffix != "csv":  # the same rows are chosen, whatever they are kept in
        assert told(opened(written(tmp_path / "a.csv", ROWS), "eval")) == held_out


def test_what_a_model_needs_to_know(tmp_path):
    path = written(tmp_path / "a.csv", ROWS)
    samples = opened(path, seq_len=4, eval_fraction=0.5)
    lengths = [min(4, len(text.encode())) for text, _ in told(opened(path, seq_len=100, eval_fraction=0.5))]
    assert samples.spec == {"vocab_size": 257, "seq_len": 4, "classes": 3, "mean_tokens": np.mean(lengths)}
    assert opened(path, "eval", seq_len=4, eval_fraction=0.5).spec == samples.spec
    facts = samples.describe()
    assert facts["class_names"] == ["bad", "good", "so-so"]
    assert "unigram_entropy" not in facts  # a report would hold the loss of a class against it
    assert facts["longer_than_seq_len"] == sum(len(text.encode()) > 4 for text, _ in told(opened(path, seq_len=100, eval_fraction=0.5)))
    counts = np.unique([label for _, label in told(opened(path, seq_len=100, eval_fraction=0.5))], return_counts=True)[1]
    assert facts["class_entropy"] == pytest.approx(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())


def test_a_batch_is_padded_and_says_where(tmp_path):
    path = written(tmp_path / "a.csv", [("ab", "n"), ("abcdefg", "y"), ("abcd", "n")])
    samples = opened(path, seq_len=5, eval_path=str(path))
    batch = samples.batch([0, 1, 2])
    assert batch["input_ids"].tolist() == [[97, 98, 0, 0, 0], [97, 98, 99, 100, 101], [97, 98, 99, 100, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch["labels"].tolist() == [0, 1, 0]


def test_another_class_or_order_is_another_fingerprint(tmp_path):
    path = written(tmp_path / "a.csv", ROWS)
    one = opened(path).fingerprint
    assert one == opened(written(tmp_path / "b.parquet", ROWS)).fingerprint
    others = [opened(path, seq_len=7), opened(path, "eval"), opened(written(tmp_path / "c.csv", [(ROWS[0][0], "good"), *ROWS[1:]]))]
    assert len({one, *(other.fingerprint for other in others)}) == 4


def test_numbers_as_classes_are_in_the_order_of_numbers(tmp_path):
    rows = [(f"text {number}", number % 12) for number in range(200)]
    for suffix in ("csv", "parquet", "jsonl"):
        assert opened(written(tmp_path / f"a.{suffix}", rows)).describe()["class_names"] == [str(number) for number in range(12)]


def test_a_bpe_and_a_tokenizer_of_one_s_own(tmp_path):
    pytest.importorskip("tokenizers")
    path = written(tmp_path / "a.jsonl", ROWS)
    samples = opened(path, tokenizer=TokenizerKind.bpe, vocab_size=300)
    assert told(samples) == told(opened(path))
    assert all(samples.tokenizer.end not in samples[number]["input_ids"] for number in range(len(samples)))
    own = tmp_path / "tokenizer.json"
    own.write_bytes(samples.tokenizer.path.read_bytes())
    assert told(opened(path, tokenizer=TokenizerKind.hf, tokenizer_path=str(own))) == told(samples)


def test_a_text_of_one_token_counts(tmp_path):
    samples = opened(written(tmp_path / "a.csv", [("a", "x"), ("bc", "y"), ("d", "y")]), eval_path=str(tmp_path / "a.csv"))
    assert told(samples) == [("a", "x"), ("bc", "y"), ("d", "y")]


def test_half_a_surrogate_pair_is_one_unknown_character(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a \\ud83d", "label": 1}\n{"text": "\\ud83d\\ude00", "label": 0}\n')
    assert told(opened(path, eval_path=str(path))) == [("a \N{REPLACEMENT CHARACTER}", "1"), ("\N{GRINNING FACE}", "0")]


def replaced(row: int, text: Any = "fine", label: Any = "good") -> list[tuple[Any, Any]]:
    return [*ROWS[:row], (text, label), *ROWS[row + 1 :]]


REFUSED = {
    "no such text": (ROWS, {"text": "body"}, "data.text: {path} has no column 'body'; it has: text, label"),
    "no such class": (ROWS, {"target": "stars"}, "data.target: {path} has no column 'stars'; it has: text, label"),
    "numbers for texts": ([(number, "ab"[number % 2]) for number in range(30)], {}, "data.text=text: the column in {path} holds numbers, not text"),
    "an empty text": (replaced(7, ""), {}, "{path}: column 'text', row 8: the cell is empty; every row needs a text"),
    "a blank text": (replaced(7, " \n"), {}, "{path}: column 'text', row 8: the cell is empty; every row needs a text"),
    "no class": (replaced(7, label=""), {}, "{path}: column 'label', row 8: the cell is empty; every text needs a class"),
    "one class": ([("a", "x")] * 9, {}, "data.target=label: all 9 rows of {path} to train on are of the class 'x'; a classifier needs two"),
    "fractions": ([(f"t{number}", number / 4) for number in range(20)], {"eval_fraction": 1e-9},
                  "data.target=label: '0.25' in {path} is no class; classes are words or whole numbers"),
    "a class a text": ([(f"t{number}", f"t{number}") for number in range(60)], {"eval_fraction": 1e-9},
                       "data.target=label: 60 different values in 60 rows of {path} are no classes; more than 20 classes need 5 rows each on average, "
                       "and there may be 1,000"),
    "no rows": ([], {}, "{path}: has no row to train on"),
    "no rows to evaluate": (ROWS[:8], {"eval_fraction": 1e-9}, "data.eval_fraction=1e-09: the eval split of {path} has no row"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_named(tmp_path, case):
    rows, knobs, message = REFUSED[case]
    path = written(tmp_path / "a.csv", rows)
    with pytest.raises(ConfigError) as caught:
        opened(path, "eval", **knobs)
    assert str(caught.value) == message.format(path=path)


def test_a_class_that_is_not_trained_on_is_refused(tmp_path):
    path, other = written(tmp_path / "a.csv", ROWS), written(tmp_path / "b.csv", replaced(4, label="superb"))
    with pytest.raises(ConfigError) as caught:
        opened(path, eval_path=str(other))
    assert str(caught.value) == f"{other}: column 'label', row 5: the category 'superb' is not in the training split"
    with pytest.raises(ConfigError, match=rf"^{written(tmp_path / 'c.csv', [])}: has no rows$"):
        opened(path, "eval", eval_path=str(tmp_path / "c.csv"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("[]", "is a JSON list, not an object with the fields 'text' and 'label'"),
        ('{"body": "a", "label": 1}', "has no field 'text' (data.text); its fields are: body, label"),
        ('{"text": "a"}', "has no field 'label' (data.target); its fields are: text"),
        ('{"text": 5, "label": 1}', "the field 'text' is a JSON int, not a string"),
        ('{"text": "a", "label": ["x"]}', "the field 'label' is a JSON list, not a class"),
    ],
)
def test_a_line_that_is_no_labelled_text_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        opened(path)
    assert str(caught.value) == f"{path}:2: {message}"


def test_columns_of_parquet_that_hold_no_text(tmp_path):
    pd.DataFrame({"text": [["a"], ["b"]], "label": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"^data.text=text: the column in .*a.parquet holds list<.*>, not text$"):
        opened(tmp_path / "a.parquet")


def test_a_text_of_which_a_tokenizer_makes_nothing(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"fine": 0, "poor": 1, "so": 2}, unk_token=None))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.normalizer = tokenizers.normalizers.Replace("!", "")
    own.save(str(tmp_path / "tokenizer.json"))
    path = written(tmp_path / "a.csv", [("fine", "x"), ("poor so", "y"), ("!", "x")])
    with pytest.raises(ConfigError) as caught:
        opened(path, eval_path=str(path), tokenizer=TokenizerKind.hf, tokenizer_path=str(tmp_path / "tokenizer.json"))
    assert str(caught.value) == f"{path}: column 'text', row 3: the tokenizer makes no token of this text; mend it, or take another tokenizer"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"path": "a.txt"}, "data.path=a.txt: must be a .csv, .parquet or .jsonl file"),
        ({"eval_path": "a"}, "data.eval_path=a: must be a .csv, .parquet or .jsonl file"),
        ({"eval_fraction": 0.0}, "data.eval_fraction=0.0: must be above 0 and below 1, unless data.eval_path is given"),
        ({"target": "text"}, "data.target=text: is data.text too; the class stands in another column than the text"),
        ({"seq_len": 0}, "data.seq_len=0: must be at least 1"),
    ],
)
def test_values_that_never_work(knobs, message):
    with pytest.raises(ConfigError) as caught:
        LabelledText(**{"path": "a.csv", **knobs}).validate()
    assert str(caught.value) == message
