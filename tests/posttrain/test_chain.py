"""Whole chains, from training to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.commands import run
from trainer.checkpoint.directory import list_whole, sha256
from trainer.posttrain.load import load

TINY = ["model.layers=2", "model.dim=32", "model.heads=2", "model.kv_heads=1", "model.sample_tokens=0", "data=synthetic", "data.seq_len=16", "data.samples=64"]
TINY += ["data.eval_samples=16", "train.max_steps=4", "train.global_batch_size=8", "eval.batch_size=4", "posttrain.latency_pairs=3", "run_dir=x"]
CHAIN = ["compress=[prune,distill,quantize]", "compress.prune.importance=magnitude", "compress.prune.finetune.steps=4", "compress.distill.finetune.steps=3"]


@pytest.mark.parametrize("strategy", ["single", *(pytest.param(name, marks=pytest.mark.large) for name in ("ddp", "fsdp", "zero3", "accelerate"))])
def test_trained_pruned_taught_and_quantized(strategy: str, tmp_path: Path) -> None:
    done = run(f"+strategy={strategy}", *TINY, *CHAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "x" / "compressed").iterdir()
    found = json.loads((made / "compress.json").read_text())
    assert found["quality_loss"] == pytest.approx(found["difference"]["loss"]["value"] / found["before"]["metrics"]["loss"]["value"])
    assert found["after"]["model_bytes"] < 0.6 * found["before"]["model_bytes"]
    assert f"compressed model {made.relative_to(tmp_path)}\n" in done.stdout
    module = load(made).module
    for layer in [layer for block in module.layers for layer in block.modules() if hasattr(layer, "scale")]:  # type: ignore[union-attr]
        assert layer.weight.dtype == torch.int8
        zeros = (layer.weight == 0).sum(1).tolist()
        assert min(zeros) >= layer.weight.shape[1] // 2  # what was pruned has stayed so, through the teaching too
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_what_it_starts_from_is_never_changed_and_a_second_chain_stands_beside_the_first(tmp_path: Path) -> None:
    assert run("+strategy=single", *TINY, cwd=tmp_path).returncode == 0
    before = {path: sha256(path) for path in sorted((tmp_path / "x").rglob("*")) if path.is_file()}
    for chain in (["compress=[low_rank]"], ["compress=[quantize]", "posttrain.max_quality_loss=10"]):
        done = run("x", *chain, cwd=tmp_path, module="trainer.posttrain")
        assert done.returncode == 0, done.stderr
    assert {path: sha256(path) for path in before} == before
    made = sorted((tmp_path / "x" / "compressed").iterdir())
    assert [path.name.rpartition("-")[0] for path in made] == ["low_rank", "quantize"]
    assert all(len(list_whole(path)) == 1 for path in made)
