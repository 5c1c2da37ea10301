"""Small trained models and their decisions."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from trainer.data.arrays import ArraySamples
from trainer.explain.tabular import TabularDecisions
from trainer.models.mlp import MLP


def table(count: int, features: int, seed: int) -> ArraySamples:
    """Rows whose class needs products of features as well as single ones."""
    generator = np.random.default_rng([seed, count])
    rows = generator.standard_normal((count, features)).astype(np.float32)
    weights = np.random.default_rng(seed).standard_normal(features) * np.linspace(1.5, 0.2, features)
    score = rows @ weights + rows[:, 0] * rows[:, 1] - 0.7 * np.abs(rows[:, 2]) * rows[:, -1]
    spec = {"features": features, "classes": 2}
    return ArraySamples("features", rows, (score > 0).astype(np.int64), spec, f"{seed}", {})


@functools.cache
def decisions(features: int = 8, seed: int = 0, background: int = 16, hidden: tuple[int, ...] = (32, 32)) -> TabularDecisions:
    """Of an MLP that was trained on `table`."""
    model, train, held_out = MLP(hidden=list(hidden)), table(512, features, seed), table(64, features, seed + 1000)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = model.build(train.spec)
        fit(model, module, train.batch(range(len(train))))
    return TabularDecisions(model, module.eval(), held_out, table(background, features, seed + 2000))


def fit(model, module: nn.Module, batch, steps: int = 150) -> None:
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (model.loss(module, batch) / len(batch["labels"])).backward()
        optimizer.step()
    module.requires_grad_(False)
