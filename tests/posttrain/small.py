"""A run that takes a second, for what is done after training."""

from __future__ import annotations

from pathlib import Path

from trainer.__main__ import train
from trainer.cli import main

DATA = ["data=synthetic", "data.seq_len=8", "data.vocab_size=32", "data.samples=64", "data.eval_samples=48"]
MODEL = ["model.layers=1", "model.dim=16", "model.heads=2", "model.kv_heads=1", "model.sample_tokens=0"]


def run(path: Path) -> Path:
    """Train two steps in `path`."""
    assert main(train, [f"run_dir={path}", "train.device=cpu", "train.max_steps=2", "log.progress=false", *MODEL, *DATA]) == 0
    return path
