"""Compressed classifiers of rows and of pictures give floating numbers, whatever their first layer has become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.explain import small
from trainer.__main__ import train
from trainer.cli import main
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load

CHAINS = ["quantize", "quantize compress.quantize.kind=int8_dynamic", "low_rank compress.low_rank.ratio=0.5", "binarize"]
OF_LINEAR_LAYERS = ["quantize compress.quantize.kind=int4 compress.quantize.group_size=2"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.run(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "run"
    knobs = ["model=cnn", "model.channels=[8]", "data=synthetic", "data.kind=images", "data.samples=64", "data.eval_samples=32"]
    assert main(train, [f"run_dir={path}", *knobs, "train.device=cpu", "train.max_steps=2", "log.progress=false"]) == 0
    return path


@pytest.mark.parametrize(("of", "chain"), [*(("rows", chain) for chain in CHAINS + OF_LINEAR_LAYERS), *(("pictures", chain) for chain in CHAINS)])
def test_a_compressed_classifier_decides(of: str, chain: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(of)
    method, *knobs = chain.split()
    assert posttrain([str(run_dir), f"compress=[{method}]", *knobs, "posttrain.latency_pairs=0"]) == 0
    made = max((path for path in (run_dir / "compressed").iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    found = json.loads((made / "compress.json").read_text())
    loaded = load(made)
    batch = load(run_dir).config.data.open("eval").batch(range(32))
    with torch.no_grad():
        outputs = loaded.config.model.outputs(loaded.module, batch)
    assert outputs.dtype == torch.float32
    assert outputs.std() > 0
    assert found["layers"][method]
