"""checkpoint.strict=false: what fits is taken, the rest keeps its initial values and is listed, under every strategy."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import ranks, tiny
from tests.checkpoint.test_checkpoint import loaded
from tests.checkpoint.trained import DATA, SMALL, checkpoint, config
from trainer.checkpoint.directory import MANIFEST, sealed
from trainer.checkpoint.load import load
from trainer.checkpoint.tensors import StoredTensors
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.models.base import Model
from trainer.models.cnn import CNN
from trainer.models.gpt import GPT, RopeScaling
from trainer.models.hf import HF
from trainer.models.mlp import MLP
from trainer.sections import OptimizerName
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

MODEL = GPT(**{**SMALL, "layers": 3, "vocab_size": 60, "tie_embeddings": True})
"""Another vocabulary, a layer more, and no output projection of its own."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(config(tmp_path_factory.mktemp("run"), strategy=FSDP()), 2)[0]


def taken(made: Config, path: Path) -> tuple[str, str, dict[str, Tensor], dict[str, Tensor]]:
    """On a rank: (what loading ends with, what it says, the whole state before, and after)."""
    engine = tiny.make_engine(made)
    engine.init_optimizer_state(0)
    before, told = whole(engine.state_dict()), io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            outcome = str(load(engine, path, tiny.facts(made), strict=False))
        except ConfigError as error:
            outcome = str(error)
    return outcome, told.getvalue(), before, whole(engine.state_dict())


def whole(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone() for name, value in state.items()}


STRATEGIES: dict[str, tuple[Strategy, int]] = {
    "single": (Single(), 1),
    "ddp": (DDP(), 2),
    "fsdp": (FSDP(), 2),
    "hsdp": (HSDP(), 4),
    "zero1": (ZeRO1(), 2),
    "zero2": (ZeRO2(), 2),
    "zero3": (ZeRO3(param_persistence_threshold=0), 2),
}
deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")


MARKS = {"hsdp": [pytest.mark.large], "zero1": [deepspeed], "zero2": [deepspeed, pytest.mark.large], "zero3": [deepspeed]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, [])) for name in STRATEGIES])
def test_what_fits_is_taken(name: str, saved: Path, tmp_path: Path) -> None:
    strategy, world_size = STRATEGIES[name]
    preload = ["trainer.strategies.deepspeed_engine"] if name.startswith("zero") else []
    results = ranks.run(world_size, taken, config(tmp_path, MODEL, strategy), saved, preload=preload)
    stored = StoredTensors(saved)
    for outcome, _, before, after in results:
        assert outcome == "Position(step=3, tokens=300, skipped=0, passed_over=())"
        assert after.keys() == before.keys()
        for key, value in after.items():
            other = "embed_tokens" in key or "layers.2" in key
            assert torch.equal(value, before[key] if other else stored.read(key)), key
            assert other or key not in before or key.startswith("optim.") or "norm" in key or not torch.equal(value, before[key])
    told = [text for _, text, _, _ in results]
    assert told[1:] == [""] * (world_size - 1)
    head, *knobs_and_lines = told[0].splitlines()
    knobs, lines = knobs_and_lines[:2], knobs_and_lines[2:]
    assert knobs == [
        f"  model.{key} there and model.{other} here" for key, other in (("layers=2", "layers=3"), ("tie_embeddings=False", "tie_embeddings=True"))
    ]
    fitting = sum("embed_tokens" not in key and "layers.2" not in key for key in results[0][2])
    assert head == f"checkpoint.strict=false: of {saved} {fitting} tensors are taken, {len(lines)} do not fit"
    assert "  model.embed_tokens.weight is (50, 16) there and (60, 16) here" in lines
    assert "  optim.exp_avg.layers.2.mlp.up_proj.weight is missing there" in lines
    assert "  model.lm_head.weight is unknown here" in lines
    assert len(lines) == 3 + 9 * 3 + 3


def one(made: Config, path: Path) -> tuple[str, str]:
    (found,) = ranks.run(1, taken, made, path)
    return found[0], found[1]


def test_other_data_is_taken_and_said(saved: Path, tmp_path: Path) -> None:
    made = config(tmp_path, data=dataclasses.replace(DATA, samples=65))
    outcome, told = one(dataclasses.replace(made, train=dataclasses.replace(made.train, seed=4, global_batch_size=4)), saved)
    assert outcome == "Position(step=3, tokens=300, skipped=0, passed_over=())"
    head, seed, batch, data = told.splitlines()
    assert head.endswith("63 tensors are taken, 0 do not fit")
    assert seed == "  train.seed is 4 here and 0 there: the samples that follow are not those that would have followed"
    assert batch.startswith("  train.global_batch_size is 4 here and 8 there: ")
    assert data.startswith("  data is not what it was trained on (fingerprint ")


def test_a_model_of_the_same_shapes_that_computes_otherwise_is_taken_and_said(saved: Path, tmp_path: Path) -> None:
    other = GPT(**{**SMALL, "heads": 2, "kv_heads": 1}, rope_theta=100.0)
    outcome, told = one(config(tmp_path, other), saved)
    assert outcome == "Position(step=3, tokens=300, skipped=0, passed_over=())"
    knobs = ["heads=4", "heads=2", "kv_heads=2", "kv_heads=1", "rope_theta=10000.0", "rope_theta=100.0"]
    head, *lines = told.splitlines()
    assert head.endswith("63 tensors are taken, 0 do not fit")
    assert lines == [f"  model.{there} there and model.{here} here" for there, here in zip(knobs[::2], knobs[1::2], strict=True)]
    (refused,) = ranks.run(1, loaded, config(tmp_path, other), saved)
    assert refused == (
        f"{saved}: does not fit this model and optimizer: {'; '.join(line.strip() for line in lines)}. "
        "checkpoint.strict=false takes what fits and lists the rest"
    )


def test_the_same_model_with_other_knobs_is_taken(saved: Path, tmp_path: Path) -> None:
    """Those that do not change what it computes from its values, and others in another form."""
    knobs = {"prompt": "a", "sample_tokens": 3, "temperature": 0.1, "freeze": ["norm.*"], "dropout": 0.5, "max_seq_len": 64, "vocab_size": 50}
    assert GPT(**SMALL).identity() == GPT(**SMALL, **knobs, rope_scaling=None).identity()
    same = GPT(**SMALL, **{**knobs, "freeze": []}, rope_scaling=None)  # what is frozen has no state in the optimizer, which does not fit
    assert ranks.run(1, loaded, config(tmp_path, same), saved) == ["Position(step=3, tokens=300, skipped=0, passed_over=())"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (GPT(), GPT(kv_heads=4, ffn_dim=704), True),
        (GPT(), GPT(norm_eps=1e-6), False),
        (GPT(), GPT(rope_scaling=RopeScaling(factor=8.0)), False),
        (HF(path="a"), HF(path="b", fresh=True, dropout=0.1), True),
        (MLP(), MLP(dropout=0.1), True),
        (CNN(), CNN(dropout=0.1), True),
        (MLP(), CNN(), False),
    ],
)
def test_what_is_the_same_model(one: Model, other: Model, same: bool) -> None:
    assert (one.identity() == other.identity()) is same


def test_another_optimizer_starts_anew(saved: Path, tmp_path: Path) -> None:
    made = config(tmp_path)
    outcome, told = one(dataclasses.replace(made, optim=dataclasses.replace(made.optim, name=OptimizerName.sgd, momentum=0.0)), saved)
    assert outcome == "Position(step=3, tokens=300, skipped=0, passed_over=())"
    assert "optim.exp_avg.norm.weight is unknown here" in told


def test_one_that_fits_says_nothing(saved: Path, tmp_path: Path) -> None:
    assert one(config(tmp_path), saved) == ("Position(step=3, tokens=300, skipped=0, passed_over=())", "")


def test_a_model_of_which_nothing_fits_is_refused(saved: Path, tmp_path: Path) -> None:
    outcome, _ = one(config(tmp_path, tiny.Tiny(), data=dataclasses.replace(DATA, vocab_size=tiny.VOCAB)), saved)
    assert outcome.startswith(f"{saved}: nothing of it fits this model (model.")
    assert outcome.endswith("; leave it with checkpoint.resume=never or another run_dir=")


def test_a_newer_format_stays_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(config(tmp_path / "run"))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(sealed(manifest | {"format_version": 9})))
    assert one(config(tmp_path), path)[0] == f"{path}: has format 9, newer than 1, the newest that this version reads"
