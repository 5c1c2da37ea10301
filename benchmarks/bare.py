"""Loops written by hand, as a good engineer writes them for one strategy, without this trainer's engine.

`batches` is nanoGPT's `get_batch` (github.com/karpathy/nanoGPT, train.py). Each maker gives a function that
takes one optimizer step on a batch and returns the mean loss of its own rank and the gradient norm. All
have the same model and initial values, fused AdamW with decay on matrices only, clipping, and gradients set to None.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import Config

Step = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor | float]]


def batches(ids: np.ndarray, seq_len: int, size: int, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """Windows of `seq_len` tokens from random places of the memory-mapped `ids`."""
    generator = torch.Generator().manual_seed(seed)

    def windows(starts: list[int]) -> Tensor:
        return torch.stack([torch.from_numpy(ids[start : start + seq_len].astype(np.int64)) for start in starts])

    while True:
        starts = torch.randint(len(ids) - seq_len, (size,), generator=generator).tolist()
        yield {"input_ids": windows(starts), "labels": windows([start + 1 for start in starts])}


def groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices but embeddings decay."""
    decay = [p for name, p in module.named_parameters() if p.ndim >= 2 and "embed" not in name]
    plain = [p for name, p in module.named_parameters() if p.ndim < 2 or "embed" in name]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(module: nn.Module, config: Config) -> torch.optim.AdamW:
    optim = config.optim
    return torch.optim.AdamW(groups(module, optim.weight_decay), lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def mean_loss(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    labels = batch["labels"]
    return module(batch["input_ids"], labels=labels) / labels.numel()


def single(module: nn.Module, config: Config) -> Step:
    optimizer = adamw(module, config)
    parameters = list(module.parameters())

    def step(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = mean_loss(module, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.optim.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    return step


def ddp(module: nn.Module, config: Config) -> Step:
    return single(nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True), config)


def fsdp(module: nn.Module, config: Config) -> Step:
    from torch.distributed.fsdp import fully_shard

    for layer in module.layers:  # type: ignore[union-attr]
        fully_shard(layer)
    fully_shard(module)
    optimizer = adamw(module, config)
    parameters = list(module.parameters())

    def step(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = mean_loss(module, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.optim.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm.full_tensor()  # type: ignore[attr-defined]

    return step


def zero(stage: int, module: nn.Module, config: Config) -> Step:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it compiles C++ for minutes
    options = {
        "train_micro_batch_size_per_gpu": config.train.global_batch_size // torch.distributed.get_world_size(),
        "gradient_clipping": config.optim.max_norm,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "log_level": "warning",
    }
    deepspeed.init_distributed("gloo", dist_init_required=False, verbose=False)
    if stage == 3:
        deepspeed.zero.Init(module=module, config_dict_or_path=options)
    engine, *_ = deepspeed.initialize(model=module, optimizer=adamw(module, config), config=options, dist_init_required=False)

    def step(batch: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        loss = mean_loss(engine, batch)
        engine.backward(loss)
        engine.step()
        return loss.detach(), float(engine.get_global_grad_norm())

    return step


MAKERS: dict[str, Callable[[nn.Module, Config], Step]] = {
    "single": single,
    "ddp": ddp,
    "fsdp": fsdp,
    "zero1": lambda module, config: zero(1, module, config),
    "zero3": lambda module, config: zero(3, module, config),
}
