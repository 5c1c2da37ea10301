"""Whole chains, from training to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.posttrain import small
from trainer.__main__ import train
from trainer.checkpoint.directory import list_whole, sha256
from trainer.cli import main
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load

TINY = ["model.layers=2", "model.dim=32", "model.heads=2", "model.kv_heads=1", "model.sample_tokens=0", "data=synthetic", "data.seq_len=16", "data.samples=64"]
TINY += ["data.eval_samples=16", "train.max_steps=4", "train.global_batch_size=8", "eval.batch_size=4", "posttrain.latency_pairs=3", "run_dir=x"]
TINY += ["train.device=cpu", "log.progress=false"]
CHAIN = ["compress=[prune,distill,quantize]", "compress.prune.importance=magnitude", "compress.prune.finetune.steps=4", "compress.distill.finetune.steps=3"]


@pytest.mark.parametrize("strategy", ["single", *(pytest.param(name, marks=pytest.mark.large) for name in ("ddp", "fsdp", "zero3", "accelerate"))])
def test_trained_pruned_taught_and_quantized(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(train, [f"+strategy={strategy}", *TINY, *CHAIN]) == 0
    (made,) = (path for path in Path("x/compressed").iterdir() if path.is_dir())
    found = json.loads((made / "compress.json").read_text())
    assert found["quality_loss"] == pytest.approx(found["difference"]["loss"]["value"] / found["before"]["metrics"]["loss"]["value"])
    assert found["after"]["disk_bytes"] < 0.6 * found["before"]["disk_bytes"]
    assert f"compressed model {made}\n" in capsys.readouterr().out
    module = load(made).module
    for layer in [layer for block in module.layers for layer in block.modules() if hasattr(layer, "scale")]:  # type: ignore[union-attr]
        assert layer.weight.dtype == torch.int8
        zeros = (layer.weight == 0).sum(1).tolist()
        assert min(zeros) >= layer.weight.shape[1] // 2  # what was pruned has stayed so, through the teaching too
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_what_it_starts_from_is_never_changed_and_a_second_chain_stands_beside_the_first(tmp_path: Path) -> None:
    path = small.run(tmp_path / "run")
    before = {path: sha256(path) for path in sorted(path.rglob("*")) if path.is_file() and path.name != "report.html"}  # which links to what is made
    for chain in (["compress=[low_rank]"], ["compress=[quantize]", "posttrain.max_quality_loss=10"]):
        assert posttrain([str(path), *chain, "posttrain.latency_pairs=0"]) == 0
    assert {path: sha256(path) for path in before} == before
    made = sorted(each for each in (path / "compressed").iterdir() if each.is_dir())
    assert [each.name.rpartition("-")[0] for each in made] == ["low_rank", "quantize"]
    assert all(len(list_whole(each)) == 1 for each in made)
