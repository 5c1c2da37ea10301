"""What people are told when their text cannot be used: the exact message."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import without_privileges
from tests.data.test_text import opened
from trainer.data.text import Text
from trainer.data.tokenized import TokenizerKind
from trainer.errors import ConfigError


def message_of(*paths, **knobs):
    with pytest.raises(ConfigError) as caught:
        opened(*paths, **knobs)
    return str(caught.value)


def test_paths_that_match_nothing(tmp_path):
    assert message_of(tmp_path / "*.txt") == f"data.paths={tmp_path}/*.txt: no file matches"
    assert message_of(tmp_path) == f"data.paths={tmp_path}: is a directory; add /** and the files' suffix"


def test_files_that_cannot_be_read(tmp_path):
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    assert message_of(loop) == f"{loop}: cannot be read: Too many levels of symbolic links"


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet"])
def test_files_without_permission(suffix, monkeypatch):
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to others
        Path(directory).chmod(0o777)
        path = Path(directory) / f"secret.{suffix}"
        path.write_text("x")
        with suppress(ConfigError):
            opened(path)  # imports what is needed: nobody may be unable to
        path.chmod(0)
        monkeypatch.setenv("TRAINER_CACHE", f"{directory}/cache")
        with without_privileges():
            assert message_of(path) == f"{path}: cannot be read: Permission denied"


def test_empty_files_and_sets(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.jsonl").write_text('\n{"text": ""}\n')
    assert message_of(tmp_path / "*.txt") == f"data.paths: {tmp_path}/empty.txt: is empty"
    assert message_of(tmp_path / "blank.jsonl") == f"data: {tmp_path}/blank.jsonl holds no text to train on"


JSON_LINES = {
    '{"text": "a" "b"}': "is not JSON: Expecting ',' delimiter (column 14)",
    '{"text": "a': "is not JSON: Unterminated string starting at (column 10)",
    '{"body": "a", "id": 1}': "has no field 'text' (data.text_field); its fields are: body, id",
    "{}": "has no field 'text' (data.text_field); its fields are: none",
    '{"text": 3}': "the field 'text' is a JSON int, not a string",
    '["a"]': "is a JSON list, not an object with the field 'text'",
    '{"text": "\udcff"}': "is not UTF-8 text: byte 0xff at column 11",
}


@pytest.mark.parametrize("unit", [1 << 20, 10])
@pytest.mark.parametrize(("line", "complaint"), JSON_LINES.items())
def test_broken_json_lines_name_file_and_line(tmp_path, monkeypatch, unit, line, complaint):
    monkeypatch.setattr("trainer.data.files.UNIT", unit)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n{"text": "fine too"}\n' + line + "\n", errors="surrogateescape")
    assert message_of(path) == f"{path}:4: {complaint}"


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes("caffé".encode("latin-1"))
    assert message_of(path) == f"{path}: is not UTF-8 text: byte 0xe9 at offset 4"
    path.write_bytes(b"x" * 3_000_000 + b"\xff")
    assert message_of(path) == f"{path}: is not UTF-8 text: byte 0xff at offset 3000000"


def test_broken_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    assert message_of(path).startswith(f"{path}: is not a whole Parquet file: ")
    pq.write_table(pa.table({"text": ["a long enough text " * 100] * 100}), path, compression="zstd")
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\0" * 100 + whole[108:])
    assert message_of(path).startswith(f"{path}: is broken in row group 0: ")
    path.write_bytes(whole[: len(whole) // 2])
    assert message_of(path).startswith(f"{path}: is not a whole Parquet file: ")


def test_parquet_without_the_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1, 2], "holes": ["a", None]}), path, row_group_size=1)
    assert message_of(path) == f"{path}: has no column 'text' (data.text_field); its columns are: n, holes"
    assert message_of(path, text_field="n") == f"{path}: the column 'n' (data.text_field) is int64, not string"
    assert message_of(path, text_field="holes") == f"{path}: row 2: the column 'holes' is null"


def test_splits_that_are_empty_or_too_short(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.jsonl"
    one.write_text("some text")
    two.write_text('{"text": ""}\n')
    assert message_of(one, split="eval", eval_fraction=0.0, seq_len=4) == (
        f"data.eval_fraction=0.0: no document of {one} fell into the eval split; a larger fraction is needed, "
        "or data.eval_paths, or data.separator (a plain text file is one document without it)"
    )
    assert message_of(one, split="eval", eval_paths=[str(two)], seq_len=4) == f"data.eval_paths=['{two}']: hold no text"
    assert message_of(one, eval_fraction=0.0, seq_len=10) == (
        f"data.seq_len=10: the train split of {one} has 10 tokens, less than one sample of 10 + 1; at most 9 is possible"
    )
    assert len(opened(one, eval_fraction=0.0, seq_len=9)) == 1


def test_training_text_in_evaluation(tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("some text")
    expected = f"data.eval_paths=['{one}']: {one} is among data.paths too; evaluation needs text that is not trained on"
    assert message_of(tmp_path / "*.txt", eval_paths=[str(one)]) == expected


def test_an_error_leaves_nothing_in_the_cache(tmp_path, cache):
    (tmp_path / "bad.jsonl").write_text("{")
    message_of(tmp_path / "bad.jsonl")
    assert [entry.suffix for entry in (cache / "text").iterdir()] == [".lock"]


IMPOSSIBLE = [
    ({}, "data.paths=[], data.dataset=None: give one of the two"),
    ({"paths": ["a"], "dataset": "b"}, "data.paths=['a'], data.dataset=b: give one of the two"),
    ({"paths": ["a"], "dataset_split": "b"}, "data.dataset_split=b: belongs to data.dataset, which is not given"),
    ({"dataset": "a", "eval_paths": ["b"]}, "data.eval_paths=['b']: belongs to data.paths; for data.dataset use data.dataset_eval_split"),
    ({"paths": ["a"], "separator": ""}, "data.separator='': must not be empty; null makes each file one document"),
    ({"paths": ["a"], "seq_len": 0}, "data.seq_len=0: must be at least 1"),
    ({"paths": ["a"], "workers": 0}, "data.workers=0: must be at least 1"),
    ({"paths": ["a"], "eval_fraction": 1.0}, "data.eval_fraction=1.0: must be at least 0 and below 1"),
    ({"paths": ["a"], "vocab_size": 256}, "data.vocab_size=256: data.tokenizer=bytes needs at least 257"),
    ({"paths": ["a"], "end_token": "x"}, "data.end_token=x: only for data.tokenizer=hf; data.tokenizer=bytes has its own"),
    ({"paths": ["a"], "tokenizer_path": "x"}, "data.tokenizer_path=x: belongs to data.tokenizer=hf, and data.tokenizer=bytes"),
    ({"paths": ["a"], "tokenizer": TokenizerKind.hf}, "data.tokenizer=hf: needs data.tokenizer_path: a tokenizer.json, a directory with one, or a hub id"),
    (
        {"paths": ["a"], "packing": False, "block_cross_document_attention": True},
        "data.block_cross_document_attention=true: needs data.packing=true (unpacked samples hold one document each)",
    ),
]


@pytest.mark.parametrize(("knobs", "message"), IMPOSSIBLE)
def test_impossible_knobs(knobs, message):
    with pytest.raises(ConfigError) as caught:
        Text(**knobs).validate()
    assert str(caught.value) == message
