"""A checkpoint of a few real steps, with the manifest that a run writes, and the values it must have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import ranks, tiny
from trainer.checkpoint.save import save
from trainer.config import Config
from trainer.data.base import Data
from trainer.data.synthetic import Synthetic
from trainer.materialise import blueprint
from trainer.models.base import Model
from trainer.models.gpt import GPT
from trainer.state import Position
from trainer.strategies.base import Strategy
from trainer.strategies.single import Single

DATA = Synthetic(samples=64, eval_samples=4, vocab_size=50, seq_len=32)
SMALL: dict[str, Any] = {"layers": 2, "dim": 16, "heads": 4, "kv_heads": 2, "ffn_dim": 24}


def config(run_dir: Path, model: Model | None = None, strategy: Strategy | None = None, data: Data | None = None) -> Config:
    made = tiny.config(strategy or Single(), run_dir, model=model or GPT(**SMALL), max_steps=3)
    return dataclasses.replace(made, data=data or DATA)


def train_and_save(made: Config) -> tuple[str, dict[str, Tensor]]:
    """On a rank: (the checkpoint, the whole parameters by canonical name)."""
    from trainer.worker import manifest_facts

    engine = tiny.make_engine(made)
    values = tiny.train(made, engine=engine).parameters
    assert made.run_dir is not None
    path = save(engine, Position(3, 300), Path(made.run_dir), manifest_facts(made, made.data.open("train")))
    return str(path), values


def checkpoint(made: Config, world_size: int = 1) -> tuple[Path, dict[str, Tensor]]:
    preload = ["trainer.strategies.deepspeed_engine"] if made.strategy is not None and made.strategy.name.startswith("zero") else []
    path, values = ranks.run(world_size, train_and_save, made, preload=preload)[0]
    return Path(path), values


def module(made: Config, values: dict[str, Tensor]) -> torch.nn.Module:
    """Our own module with `values`."""
    plan = blueprint(made.model, made.data.open("train").spec, 0, torch.device("cpu"), torch.float32)
    plan.fill(plan.module)
    parameters = dict(plan.module.named_parameters())
    assert parameters.keys() == values.keys()
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return plan.module.eval()
