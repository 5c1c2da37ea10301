"""Whole runs whose weights become bits, and whose convolutions go by tiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.posttrain.test_chain import TINY
from trainer.__main__ import train
from trainer.cli import main
from trainer.compress.binarized import Packed
from trainer.compress.tiled import WinogradConv2d
from trainer.posttrain.load import load

IMAGES = ["model=cnn", "model.channels=[8,16]", "data=images", "train.max_steps=4", "train.global_batch_size=32", "posttrain.latency_pairs=0", "run_dir=x"]


@pytest.mark.large
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "zero3", "accelerate"])
def test_trained_binary_and_packed(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = ["compress=[binarize]", f"compress.binarize.kind={'ternary' if strategy == 'fsdp' else 'binary'}", "compress.binarize.finetune.steps=4"]
    monkeypatch.chdir(tmp_path)
    assert main(train, [f"+strategy={strategy}", *TINY, *knobs]) == 0
    (made,) = (path for path in Path("x/compressed").iterdir() if path.is_dir())
    module, config = load(made)
    layers = [sub for sub in module.modules() if isinstance(sub, Packed)]
    assert len(layers) == 14
    assert all(layer.weight.dtype == torch.uint8 for layer in layers)
    held_out = config.data.open("eval")
    with torch.no_grad():
        loss = float(config.model.loss(module, held_out.batch(range(len(held_out))))) / (len(held_out) * 16)
    told = json.loads((made / "compress.json").read_text())["after"]["metrics"]["loss"]["value"]
    assert loss == pytest.approx(told, rel=1e-5)


@pytest.mark.large
def test_convolutions_by_tiles_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(train, ["+strategy=single", *IMAGES, "compress=[winograd]"]) == 0
    (made,) = (path for path in Path("x/compressed").iterdir() if path.is_dir())
    found = json.loads((made / "compress.json").read_text())
    assert abs(found["difference"]["loss"]["value"]) < 1e-5
    assert found["layers"]["winograd"]["stages.0.conv2"]["times fewer"] == 4
    module = load(made).module
    assert [name for name, sub in module.named_modules() if isinstance(sub, WinogradConv2d)] == ["stages.0.conv1", "stages.0.conv2", "stages.1.conv2"]
