"""The engine of `fsdp` and `hsdp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from trainer.config import Precision
from trainer.errors import ConfigError
from trainer.strategies.engine import Engine, LossFn, Batch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.models.base import Model
    from trainer.strategies.fsdp import FSDP


def shard(blueprint: Blueprint, config: Config, mesh: DeviceMesh, knobs: FSDP) -> None:
    """Fill and shard the blueprint's module in place, a block at a time."""
    _refuse_ties_across_blocks(blueprint)
    mixed = config.train.precision is Precision.bf16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if mixed else MixedPrecisionPolicy()
    offload = CPUOffloadPolicy(pin_memory=blueprint.device.type == "cuda") if knobs.cpu_offload else OffloadPolicy()
    for block in blueprint.blocks:
        blueprint.fill(block)
        fully_shard(block, mesh=mesh, reshard_after_forward=knobs.reshard_after_forward, mp_policy=policy, offload_policy=offload)
    blueprint.fill(blueprint.module)
    fully_shard(blueprint.module, mesh=mesh, reshard_after_forward=knobs.reshard_after_forward, mp_policy=policy, offload_policy=offload)


def _refuse_ties_across_blocks(blueprint: Blueprint) -> None:
    """FSDP2 would cut a parameter that two blocks share into two that drift apart."""
    owner: dict[int, int] = {}
    inside = {id(sub): index for index, block in enumerate(blueprint.blocks) for sub in block.modules()}
    for name, submodule in blueprint.module.named_modules():
        for key, parameter in submodule.named_parameters(recurse=False):
            unit = inside.get(id(submodule), -1)
            if owner.setdefault(id(parameter), unit) != unit:
                raise ConfigError(f"strategy=fsdp: parameter {name}.{key} is tied across two blocks, which FSDP2 cannot shard; use strategy=ddp, or zero1")


class FSDPEngine(Engine):
    """Gathers each block's parameters when it runs; reduces and scatters its gradients."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, mesh: DeviceMesh, knobs: FSDP):
        super().__init__(module, optimizer, config, device, mesh)
        assert isinstance(module, FSDPModule)
        self.root: FSDPModule = module
        self.no_sync = knobs.no_sync

    def forward(self, loss_fn: LossFn, batch: Batch) -> Tensor:
        return loss_fn(self.model, batch)  # the mixed precision policy does what autocast would

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return model.metrics(self.model, batch)

    def backward(self, loss: Tensor, last: bool) -> None:
        if self.no_sync:
            self.root.set_requires_gradient_sync(last)
        loss.backward()

    def clip(self, max_norm: float) -> Tensor:
        from torch.distributed.tensor import DTensor

        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.trainable, max_norm, norm)
        return norm.to(self.device)
