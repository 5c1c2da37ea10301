"""A small model on ranks, to compress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.compress.base import Compressor
from trainer.compress.subject import Subject, whole
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.launchers.local import Local
from trainer.models.gpt import GPT
from trainer.posttrain.values import changed, without_values


def config(run_dir: Path | str = "unused") -> Config:
    """A model of two blocks on random text, of widths that do not divide by 4 ranks evenly everywhere."""
    model = GPT(layers=2, dim=24, heads=2, kv_heads=1, ffn_dim=42, sample_tokens=0)
    return Config(run_dir=str(run_dir), model=model, data=Synthetic(samples=24, eval_samples=8, vocab_size=32, seq_len=8), launcher=Local())


def subject(config: Config) -> Subject:
    """The model with its initial values, cut over the ranks that there are."""
    samples = config.data.open("train")
    return Subject(config.model, without_values(config.model, config, samples, torch.device("cpu")), samples, 4)


def compressed(parts: list[Compressor]) -> tuple[dict[str, Tensor], list[dict[str, dict[str, Any]]]]:
    """What a chain makes of the model: whole values, and what is told of the layers by each method. On every rank."""
    config_ = config()
    now, told = subject(config_), []
    for part in parts:
        change = part.run(now)
        now = changed(now, change, config_)
        told.append(change.told)
    return {name: whole(value).clone() for name, value in now.values().items()}, told
