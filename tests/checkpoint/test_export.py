"""An exported model is the trained one: transformers loads it and computes the same; what cannot be exported says so."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests import ranks
from tests.checkpoint.trained import SMALL, checkpoint, config, module
from trainer.checkpoint.__main__ import main
from trainer.checkpoint.directory import MANIFEST, read_manifest, sealed
from trainer.checkpoint.export import cut
from trainer.checkpoint.tensors import Meta, StoredTensors, write_file
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.data.text import Text
from trainer.data.tokenized import TokenizerKind
from trainer.models.gpt import GPT, RopeScaling
from trainer.models.hf import HF
from trainer.models.mlp import MLP
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO3
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single

needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="the extra `hf` is not installed")
deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def tokens() -> torch.Tensor:
    return torch.randint(0, 50, (2, 32), generator=torch.Generator().manual_seed(1))


def logits(directory: Path) -> torch.Tensor:
    """What transformers computes from `directory`; every parameter must come from its files, and every tensor there be used."""
    import transformers

    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return loaded.eval()(tokens()).logits


GPTS: dict[str, dict[str, Any]] = {
    "grouped queries, own vocabulary": {"vocab_size": 64, "norm_eps": 0.1},
    "tied": {"tie_embeddings": True, "kv_heads": None},
    "llama 3": {"rope_theta": 100.0, "rope_scaling": RopeScaling(original_max_seq_len=16, factor=4.0), "max_seq_len": 64},
}


@needs_transformers
@pytest.mark.parametrize("knobs", GPTS.values(), ids=GPTS)
def test_gpt_is_a_llama_with_the_same_outputs(knobs: dict[str, Any], tmp_path: Path) -> None:
    made = config(tmp_path / "run", GPT(**{**SMALL, **knobs}))
    path, values = checkpoint(made)
    assert export(path, tmp_path / "out") == 0
    with torch.no_grad():
        torch.testing.assert_close(logits(tmp_path / "out"), module(made, values)(tokens()), rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def hf_configs() -> dict[str, Any]:
    import transformers

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {
        "gpt2 (tied)": transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1),
        "mixtral": transformers.MixtralConfig(**sizes, num_local_experts=2),
    }


@needs_transformers
@pytest.mark.parametrize("name", ["gpt2 (tied)", pytest.param("mixtral", marks=pytest.mark.large)])
def test_hf_keeps_its_class_and_its_outputs(name: str, tmp_path: Path) -> None:
    import transformers

    given = hf_configs()[name]
    given.save_pretrained(tmp_path / "config")
    made = config(tmp_path / "run", HF(path=str(tmp_path / "config")))
    path, values = checkpoint(made)
    assert export(path, tmp_path / "out", "--max-shard-size", "9KB") == 0
    assert (tmp_path / "out/model.safetensors.index.json").is_file()
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), module(made, values)(tokens()).logits)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path / "out")) is type(given)


STRATEGIES: dict[str, tuple[Strategy, int]] = {
    "single": (Single(), 1),
    "ddp": (DDP(), 2),
    "fsdp": (FSDP(), 3),
    "zero3": (ZeRO3(param_persistence_threshold=0), 2),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[deepspeed] if name.startswith("zero") else []) for name in STRATEGIES])
def test_what_any_strategy_wrote_is_exported_bit_for_bit(name: str, tmp_path: Path) -> None:
    strategy, world_size = STRATEGIES[name]
    path, values = checkpoint(config(tmp_path / "run", strategy=strategy), world_size)
    assert len(list(path.glob("*.safetensors"))) == world_size
    assert export(tmp_path / "run", tmp_path / "out.safetensors", "--format", "plain") == 0
    exported = load_file(tmp_path / "out.safetensors")
    assert exported.keys() == values.keys()
    assert all(torch.equal(exported[key], value) for key, value in values.items())
    with safe_open(tmp_path / "out.safetensors", framework="pt") as opened:
        told = opened.metadata()
    assert (told["step"], told["tokens"]) == ("3", "300")
    assert json.loads(told["model"])["dim"] == 16


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(config(tmp_path_factory.mktemp("run")))[0]


def test_shards_are_no_larger_than_asked(saved: Path, tmp_path: Path) -> None:
    assert export(saved, tmp_path / "one") == export(saved, tmp_path / "many", "--max-shard-size", "5KB") == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["config.json", "model.safetensors"]
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = {file: load_file(tmp_path / "many" / file) for file in set(index["weight_map"].values())}
    assert len(files) > 2
    assert max(sum(value.nbytes for value in file.values()) for file in files.values()) <= 5000
    assert index["weight_map"] == {name: file for file, held in files.items() for name in held}
    whole = load_file(tmp_path / "one/model.safetensors")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    assert all(torch.equal(files[index["weight_map"][name]][name], value) for name, value in whole.items())


def test_a_tensor_larger_than_a_shard_has_one_to_itself() -> None:
    metas = {name: Meta((numel,), torch.float32) for name, numel in {"a": 1, "b": 9, "c": 2, "d": 2, "e": 1}.items()}
    assert cut(metas, 16) == [["a"], ["b"], ["c", "d"], ["e"]]


def test_a_model_without_such_a_form_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Synthetic(kind=SyntheticKind.tabular, samples=64, eval_samples=4)
    path, values = checkpoint(config(tmp_path / "run", MLP(), data=rows))
    assert export(path, tmp_path / "out") == 2
    assert capsys.readouterr().err == f"error: {path}: MLP has no Hugging Face form; export it with --format plain\n"
    assert not (tmp_path / "out").exists()
    assert export(path, tmp_path / "out", "--format", "plain") == 0
    assert load_file(tmp_path / "out").keys() == values.keys()


def test_one_of_an_earlier_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = checkpoint(config(tmp_path / "run"))
    manifest = read_manifest(path)
    del manifest["data_spec"]
    (path / MANIFEST).write_text(json.dumps(sealed(manifest)))
    assert export(path, tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: was saved by an earlier version, ")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    for form in ("hf", "plain"):
        assert export(saved, tmp_path / "out", "--format", form) == 2
        assert "is there already, and is not overwritten" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = checkpoint(config(tmp_path / "run"))
    file = next(path.glob("*.safetensors"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for form in ("hf", "plain"):
        assert export(path, tmp_path / "out", "--format", form) == 1
        assert f"{path}: is damaged: {file.name} is not what was written" in capsys.readouterr().err
    (path / MANIFEST).write_text((path / MANIFEST).read_text()[:-9])
    for form in ("hf", "plain"):
        assert export(path, tmp_path / "out", "--format", form) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"run failed: {path}: is damaged: {MANIFEST} cannot be read (JSONDecodeError: ")
        assert "checkpoint.resume" not in told  # no run is begun here
    assert os.listdir(tmp_path) == ["run"]


def limited(form: str, saved: Path, out: Path) -> tuple[int, list[str]]:
    """Export where no file may be larger than 4 kB: (exit status, what is left)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return export(saved, out, "--format", form), os.listdir(out.parent)


@pytest.mark.parametrize("form", ["hf", "plain"])
def test_nothing_is_left_of_an_export_that_cannot_be_written(form: str, saved: Path, tmp_path: Path) -> None:
    assert ranks.run(1, limited, form, saved, tmp_path / "out", group=False) == [(1, [])]


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def read(name: str) -> torch.Tensor:
        assert all(ref() is None for ref in made)
        value = torch.full((), 3.0) if name == "c" else torch.arange(6, dtype=torch.float64).view(2, 3) if name == "b" else torch.ones(3, dtype=torch.bool)
        made.append(weakref.ref(value))
        return value

    metas = {"a": Meta((3,), torch.bool), "b": Meta((2, 3), torch.float64), "c": Meta((), torch.float32)}
    write_file(tmp_path / "file.safetensors", metas, read, {"key": "value"})
    assert {name: value.tolist() for name, value in load_file(tmp_path / "file.safetensors").items()} == {"a": [True] * 3, "b": [[0, 1, 2], [3, 4, 5]], "c": 3}
    assert StoredTensors(tmp_path).metas == metas


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.txt").write_text("the cat sat on the mat\n" * 200)
    (tmp_path / "eval.txt").write_text("the mat sat on the cat\n" * 20)
    return {"paths": [str(tmp_path / "train.txt")], "eval_paths": [str(tmp_path / "eval.txt")], "seq_len": 32}


@needs_transformers
def test_the_tokenizer_goes_with_the_model(corpus: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    bpe = Text(**corpus, tokenizer=TokenizerKind.bpe, vocab_size=270)
    assert export(checkpoint(config(tmp_path / "bpe", data=bpe))[0], tmp_path / "out") == 0
    assert capsys.readouterr().out.endswith(f" is exported to {tmp_path / 'out'}\n")  # and no more
    samples = bpe.open("train")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("the cat")["input_ids"] == samples.encode("the cat")
    assert theirs.eos_token_id == transformers.AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == 0

    facts = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    (tmp_path / "out/tokenizer_config.json").write_text(json.dumps(facts | {"model_max_length": 77}))
    given = Text(**corpus, tokenizer=TokenizerKind.hf, tokenizer_path=str(tmp_path / "out"))  # as one that was trained elsewhere
    path = checkpoint(config(tmp_path / "hf", data=given))[0]
    assert export(path, tmp_path / "again") == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (theirs("the cat")["input_ids"], theirs.model_max_length) == (samples.encode("the cat"), 77)
    (tmp_path / "out/tokenizer.json").unlink()
    capsys.readouterr()
    assert export(path, tmp_path / "without") == 0
    assert f"without its tokenizer: data.tokenizer_path={tmp_path / 'out'}: the directory has no tokenizer.json" in capsys.readouterr().out
    assert not (tmp_path / "without/tokenizer.json").exists()


def test_bytes_need_no_tokenizer(corpus: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(checkpoint(config(tmp_path / "run", data=Text(**corpus)))[0], tmp_path / "out") == 0
    assert "without a tokenizer: tokens are bytes, and 256 ends a document" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/config.json").read_text())["eos_token_id"] == 256
