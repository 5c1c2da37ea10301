import json
import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.base import IGNORE
from trainer.data.text import Text
from trainer.data.tokenized import TokenizerKind
from trainer.errors import ConfigError

END = 256


def opened(*paths, split="train", **knobs):
    data = Text(paths=[str(path) for path in paths], **knobs)
    data.validate()
    return data.open(split)


def stream(samples):
    """All tokens of packed samples in a row."""
    tokens = [samples[0]["input_ids"][:1]]
    for i in range(len(samples)):
        labels = samples[i]["labels"]
        tokens.append(labels[labels != IGNORE])
    return np.concatenate(tokens).tolist()


@pytest.fixture
def documents():
    generator = random.Random(0)
    return ["".join(generator.choices("abc déß\n", k=generator.randint(1, 60))) + str(i) for i in range(200)]


def expected(documents):
    return [token for document in documents for token in [*document.encode(), END]]


@pytest.fixture
def folder(tmp_path, documents):
    """The documents as JSON lines (twice, to train and to evaluate), Parquet, and plain text."""
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(documents))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "eval.jsonl").write_text(lines)
    pq.write_table(pa.table({"text": documents}), tmp_path / "a.parquet", row_group_size=30)
    (tmp_path / "a.txt").write_text("<|end|>".join(documents))
    return tmp_path


@pytest.fixture
def small_units(monkeypatch):
    """As if the files were large: many units, and processes from the first byte."""
    monkeypatch.setattr("trainer.data.files.UNIT", 500)
    monkeypatch.setattr("trainer.data.tokenizer.ByteTokenizer.parallel_from", 0)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_packed_samples_predict_every_token_once(folder, documents, name):
    if name == "a.txt":
        documents = [text.strip("\r\n") for text in documents]
    samples = opened(folder / name, eval_paths=[str(folder / "eval.jsonl")], seq_len=16, separator="<|end|>")
    tokens = expected(documents)
    assert stream(samples) == tokens
    assert len(samples) == math.ceil((len(tokens) - 1) / 16)
    assert samples[0]["input_ids"].tolist() == tokens[:16]
    assert samples[1]["labels"].tolist() == tokens[17:33]
    assert all(array.dtype == np.int64 and array.shape == (16,) for array in samples[len(samples) - 1].values())
    assert samples.spec == {"vocab_size": 257, "seq_len": 16}
    with pytest.raises(IndexError):
        samples[len(samples)]


@pytest.mark.parametrize("apart", [False, True])
def test_batch_equals_collated_samples(folder, apart):
    samples = opened(folder / "a.jsonl", seq_len=16, block_cross_document_attention=apart)
    indices = [3, 0, len(samples) - 1]
    batch, collated = samples.batch(indices), samples.collate([samples[i] for i in indices])
    assert batch.keys() == collated.keys()
    for key in batch:
        assert batch[key].dtype == collated[key].dtype
        assert batch[key].tolist() == collated[key].tolist()


def test_documents_apart(folder, documents):
    samples = opened(folder / "a.jsonl", eval_paths=[str(folder / "eval.jsonl")], seq_len=16, block_cross_document_attention=True)
    owners = [number for number, text in enumerate(documents) for _ in range(len(text.encode()) + 1)]
    tokens = expected(documents)
    for i in range(len(samples)):
        sample, start = samples[i], 16 * i
        valid = min(16, len(tokens) - 1 - start)
        owned = owners[start : start + valid]
        assert sample["document_ids"][:valid].tolist() == [owner - owned[0] for owner in owned]
        labels = [tokens[t + 1] if owners[t + 1] == owners[t] else IGNORE for t in range(start, start + valid)]
        assert sample["labels"].tolist() == labels + [IGNORE] * (16 - valid)
        assert sample["input_ids"][:valid].tolist() == tokens[start : start + valid]
    assert valid < 16  # the last sample is not full, and what fills it is in no document
    assert not set(sample["document_ids"][valid + 1 :].tolist()) & set(sample["document_ids"][:valid].tolist())


def test_unpacked_samples_are_documents(folder, documents):
    samples = opened(folder / "a.jsonl", eval_paths=[str(folder / "eval.jsonl")], seq_len=40, packing=False)
    assert len(samples) == len(documents)
    for i, text in enumerate(documents):
        window = [*text.encode(), END][:41]
        assert (samples[i]["input_ids"].tolist(), samples[i]["labels"].tolist()) == (window[:-1], window[1:])
    batch = samples.batch([0, 1, 2])
    assert int((batch["labels"] != IGNORE).sum()) == sum(len(samples[i]["labels"]) for i in range(3))


def test_splits_are_stable_and_keep_copies_together(folder, documents, tmp_path):
    train, evaluation = (opened(folder / "a.jsonl", split=split, packing=False, seq_len=100, eval_fraction=0.2) for split in ("train", "eval"))
    texts = [{samples.decode(samples[i]["input_ids"]) for i in range(len(samples))} for samples in (train, evaluation)]
    assert texts[0] | texts[1] == set(documents)
    assert not texts[0] & texts[1]
    assert 20 <= len(texts[1]) <= 60
    again = tmp_path / "shuffled.jsonl"
    again.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*documents[::-1], *documents]))
    samples = opened(again, split="eval", packing=False, seq_len=100, eval_fraction=0.2)
    assert {samples.decode(samples[i]["input_ids"]) for i in range(len(samples))} == texts[1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
@pytest.mark.parametrize("separator", ["<|end|>", None])
def test_the_cut_into_units_and_the_workers_change_nothing(folder, small_units, cache, monkeypatch, name, separator):
    knobs = {"eval_paths": [str(folder / "eval.jsonl")], "separator": separator}
    prints = []
    for workers, unit in ((1, 500), (2, 500), (1, 1 << 20)):
        monkeypatch.setenv("TRAINER_CACHE", str(cache / f"{workers}-{unit}"))
        monkeypatch.setattr("trainer.data.files.UNIT", unit)
        prints.append([opened(folder / name, workers=workers, split=split, **knobs).fingerprint for split in ("train", "eval")])
    assert prints[0] == prints[1] == prints[2]


def test_a_long_text_without_line_ends_is_one_document(tmp_path, small_units):
    text = "x" + "é" * 3000  # 500 bytes on lies half a letter
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "eval.txt").write_text("eval")
    samples = opened(tmp_path / "long.txt", eval_paths=[str(tmp_path / "eval.txt")], workers=1)
    assert stream(samples) == expected([text])
    assert samples.describe()["documents"] == 1


def test_unigram_entropy_is_that_of_the_training_tokens(folder):
    samples = opened(folder / "a.jsonl", split="train")
    counts = np.bincount(stream(samples))
    shares = counts[counts > 0] / counts.sum()
    facts = samples.describe()
    assert facts["unigram_entropy"] == pytest.approx(float(-(shares * np.log(shares)).sum()), rel=1e-12)
    assert facts["tokens"] == counts.sum()
    assert facts["documents"] == counts[END]
    assert opened(folder / "a.jsonl", split="eval").describe()["unigram_entropy"] == facts["unigram_entropy"]


def test_the_fingerprint_follows_content_and_knobs_but_not_place(folder, tmp_path):
    first = opened(folder / "a.jsonl", seq_len=16).fingerprint
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "b.jsonl"
    moved.write_bytes((folder / "a.jsonl").read_bytes())
    assert opened(moved, seq_len=16).fingerprint == first
    changed = [opened(folder / "a.jsonl", seq_len=17), opened(folder / "a.jsonl", seq_len=16, vocab_size=300)]
    moved.write_text(moved.read_text() + '{"text": "one more"}\n')
    changed += [opened(moved, seq_len=16), opened(folder / "a.jsonl", seq_len=16, block_cross_document_attention=True)]
    assert len({first, *(samples.fingerprint for samples in changed)}) == 5


def test_bpe_is_trained_on_the_training_split_alone(tmp_path):
    (tmp_path / "train.txt").write_text("walk walked walking\n" * 300)
    (tmp_path / "eval.txt").write_text("zygote " * 3000)
    knobs = {"eval_paths": [str(tmp_path / "eval.txt")], "tokenizer": TokenizerKind.bpe, "vocab_size": 270, "seq_len": 8}
    train, evaluation = (opened(tmp_path / "train.txt", split=split, **knobs) for split in ("train", "eval"))
    assert train.spec == {"vocab_size": 270, "seq_len": 8}
    assert train.decode(train.encode(" walked")) == " walked"
    assert len(train.encode(" walked")) < 5
    assert len(evaluation.encode("zygote")) == 6  # never seen: letter by letter
    assert train.decode(stream(train)) == "walk walked walking\n" * 300
    assert stream(train)[-1] == 0  # the end of the document


@pytest.fixture
def tokenizer(tmp_path):
    """A directory with a word tokenizer of 5 words, the way a model's directory has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path / "model"
    place.mkdir()
    backend = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "sat": 2, "<unk>": 3, "<end>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    (tmp_path / "cats.jsonl").write_text('{"text": "the cat sat"}\n{"text": "the dog"}\n')
    (tmp_path / "eval.jsonl").write_text('{"text": "sat the cat the"}\n')
    return place


def with_tokenizer(place, **knobs):
    knobs = {"seq_len": 2, "tokenizer_path": str(place), **knobs}
    return opened(place.parent / "cats.jsonl", eval_paths=[str(place.parent / "eval.jsonl")], tokenizer=TokenizerKind.hf, **knobs)


def test_a_given_tokenizer_is_used_and_kept(tokenizer):
    samples = with_tokenizer(tokenizer)
    assert stream(samples) == [0, 1, 2, 4, 0, 3, 4]
    assert samples.spec["vocab_size"] == 5
    assert stream(with_tokenizer(tokenizer, end_token="cat")) == [0, 1, 2, 1, 0, 3, 1]
    (tokenizer / "tokenizer_config.json").unlink()
    assert samples.decode([0, 1, 4]) == "the cat"


def test_documents_of_one_token_predict_nothing_and_are_left_out(tokenizer):
    (tokenizer / "tokenizer_config.json").unlink()
    (tokenizer.parent / "cats.jsonl").write_text('{"text": "the cat sat"}\n{"text": "cat"}\n{"text": "the dog"}\n')
    samples = with_tokenizer(tokenizer)
    assert stream(samples) == [0, 1, 2, 0, 3]
    assert samples.describe()["documents"] == 2


def test_ids_outside_the_vocabulary(tokenizer):
    with pytest.raises(ConfigError) as caught:
        with_tokenizer(tokenizer, vocab_size=4)
    assert str(caught.value) == f"data.vocab_size=4: the tokenizer gave the id 4 in {tokenizer.parent / 'cats.jsonl'}; at least 5 is needed"
    assert with_tokenizer(tokenizer, vocab_size=64).spec["vocab_size"] == 64


def test_tokenizers_that_cannot_be_used(tokenizer, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tokenizer / "broken.json").write_text("{")
    broken = f"data.tokenizer_path: {tokenizer / 'broken.json'}: is not a tokenizer.json: "
    no_end = f"data.end_token=<stop>: the tokenizer {tokenizer / 'tokenizer.json'} has no such token"
    hub = "data.tokenizer_path=nobody/nothing: no such file or directory, and not found on the hub: "
    for knobs, message in (
        ({"tokenizer_path": str(tokenizer / "broken.json")}, broken),
        ({"tokenizer_path": str(tokenizer.parent)}, f"data.tokenizer_path={tokenizer.parent}: the directory has no tokenizer.json"),
        ({"end_token": "<stop>"}, no_end),
        ({"tokenizer_path": "nobody/nothing"}, hub),
    ):
        with pytest.raises(ConfigError) as caught:
            with_tokenizer(tokenizer, **knobs)
        assert str(caught.value).startswith(message)


def test_hugging_face_data_set(tmp_path, documents):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"n": list(range(200)), "body": documents})
    datasets.DatasetDict({"train": rows, "test": rows.select(range(7))}).save_to_disk(str(tmp_path / "set"))
    knobs = {"dataset": str(tmp_path / "set"), "text_field": "body", "seq_len": 16}
    assert stream(opened(dataset_eval_split="test", **knobs)) == expected(documents)
    assert stream(opened(dataset_eval_split="test", split="eval", **knobs)) == expected(documents[:7])
    both = [opened(split=split, **knobs).describe()["documents"] for split in ("train", "eval")]
    assert sum(both) == 200
    assert min(both) > 0
    for wrong, message in (
        ({"dataset_split": "valid"}, f"data.dataset_split=valid: {tmp_path / 'set'} has no such split; it has: train, test"),
        ({"text_field": "text"}, f"data.dataset={tmp_path / 'set'}: has no column 'text' (data.text_field); its columns are: n, body"),
        ({"text_field": "n"}, f"data.dataset={tmp_path / 'set'}: row 1: the column 'n' is int, not a string"),
    ):
        with pytest.raises(ConfigError) as caught:
            opened(**{**knobs, **wrong})
        assert str(caught.value) == message


def test_hugging_face_data_set_in_a_directory_of_files(tmp_path, documents, monkeypatch):
    config = pytest.importorskip("datasets.config")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.jsonl").write_text("".join(json.dumps({"text": split + text}) + "\n" for text in documents))
    samples = opened(dataset=str(tmp_path / "set"), dataset_eval_split="test")
    assert stream(samples) == expected(["train" + text for text in documents])
    (tmp_path / "set" / "test.jsonl").unlink()
    assert opened(dataset=str(tmp_path / "set"), eval_fraction=0.0).fingerprint == samples.fingerprint


def test_a_data_set_that_is_not_there(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        opened(dataset=str(tmp_path / "none"))
    assert str(caught.value).startswith(f"data.dataset={tmp_path / 'none'}: cannot be opened: ")


def test_the_second_open_reads_nothing_but_the_cache(folder, monkeypatch):
    first = opened(folder / "a.parquet", seq_len=16)
    monkeypatch.setattr("trainer.data.shards.write_shards", None)
    monkeypatch.setattr("trainer.data.records.parquet_spans", None)
    assert opened(folder / "a.parquet", seq_len=16).fingerprint == first.fingerprint


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n')
    samples = opened(tmp_path / "a.jsonl", eval_paths=[str(tmp_path / "b.jsonl")], packing=False)
    assert samples.decode(samples[0]["input_ids"]) == "a�b"
