"""What the scripts share: the model, the data and the parameter groups. Each script is the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from trainer.models.gpt import GPT

WORK = "BENCHMARK_WORK"
WEIGHT_DECAY, LR, BETAS, MAX_NORM, LOG_EVERY = 0.1, 1e-3, (0.9, 0.95), 1.0, 10


@dataclass(frozen=True)
class Work:
    """What is to be trained."""

    layers: int
    dim: int
    seq_len: int
    batch: int
    """Samples in a step on one rank."""
    steps: int
    vocab_size: int
    tokens: str
    """A file of uint16 ids."""


def given() -> Work:
    return Work(**json.loads(os.environ[WORK]))


def make_model(work: Work) -> nn.Module:
    torch.manual_seed(0)
    return GPT(layers=work.layers, dim=work.dim, kv_heads=2).build({"vocab_size": work.vocab_size, "seq_len": work.seq_len})


class Windows(Dataset[dict[str, Tensor]]):
    """Sample i is tokens [i L, (i+1) L] of a memory-mapped file; its labels are shifted by one."""

    def __init__(self, work: Work) -> None:
        self.ids = np.memmap(work.tokens, np.uint16, "r")
        self.seq_len = work.seq_len

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.seq_len

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * self.seq_len
        window = torch.from_numpy(self.ids[start : start + self.seq_len + 1].astype(np.int64))
        return {"input_ids": window[:-1], "labels": window[1:]}


def make_loader(work: Work, *, sharded: bool) -> DataLoader[dict[str, Tensor]]:
    """`sharded`: each rank has its own part; else the framework is to see to that."""
    data = Windows(work)
    sampler = DistributedSampler(data, drop_last=True) if sharded else None
    return DataLoader(data, batch_size=work.batch, sampler=sampler, shuffle=sampler is None, drop_last=True)


def groups(module: nn.Module) -> list[dict[str, object]]:
    """Matrices but embeddings decay."""
    named = list(module.named_parameters())
    decay = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
    plain = [p for name, p in named if p.ndim < 2 or "embed" in name]
    return [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups(module), lr=LR, betas=BETAS, fused=True)


def mean_loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return module(batch["input_ids"], labels=batch["labels"]) / batch["labels"].numel()


def train_ddp(wrap: Callable[[nn.Module], nn.Module], log: Callable[[float], None]) -> None:
    """The loop of plain PyTorch, in an initialised process group; `wrap` makes the module DDP."""
    work = given()
    model = wrap(make_model(work))
    optimizer = make_optimizer(model)
    parameters = list(model.parameters())
    for step, batch in enumerate(islice(make_loader(work, sharded=True), work.steps), 1):
        loss = mean_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0:
            log(loss.item())
