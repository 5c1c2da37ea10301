"""Fully sharded data parallel (FSDP2): parameters, gradients and optimizer state are cut over the ranks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.strategies.base import Strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.engine import Engine


@dataclass(kw_only=True)
class FSDP(Strategy):
    """`torch.distributed.fsdp.fully_shard` on each block and on the rest."""

    name: ClassVar[str] = "fsdp"

    reshard_after_forward: bool = True
    """Free a block's whole parameters after forward and gather them again for backward (ZeRO-3);
    false keeps them (ZeRO-2): more memory, fewer collectives."""
    no_sync: bool = False
    """Exchange gradients only in the last micro-batch of a step: fewer collectives, but whole
    gradients are kept in memory until then."""
    cpu_offload: bool = False
    """Keep sharded parameters, gradients and optimizer state in host memory."""

    def check(self, config: Config, world_size: int) -> None:
        if config.optim.name.name == "adafactor":
            raise ConfigError("optim.name=adafactor: is not implemented for sharded tensors in PyTorch; use optim.name=adamw, or strategy=ddp")

    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        from trainer.optim import make_optimizer, param_groups
        from trainer.strategies.engine import transform_blocks
        from trainer.strategies.fsdp_engine import FSDPEngine, shard

        if self.cpu_offload and blueprint.device.type == "cpu":
            warnings.warn("strategy.cpu_offload=true: has no effect on the CPU", stacklevel=2)
        transform_blocks(blueprint, config)
        shard(blueprint, config, mesh, self)
        groups = param_groups(blueprint.model, blueprint.module, config.optim.weight_decay)
        return FSDPEngine(blueprint.module, make_optimizer(config.optim, groups), config, blueprint.device, mesh, self)


@dataclass(kw_only=True)
class HSDP(FSDP):
    """FSDP within groups of ranks, and copies of the model over the groups (a 2-D mesh)."""

    name: ClassVar[str] = "hsdp"

    shard_size: int | None = None
    """Ranks that share one copy; null: the ranks of a node, or half of all where there is one node."""

    def check(self, config: Config, world_size: int) -> None:
        super().check(config, world_size)
        if self.shard_size is not None and (self.shard_size < 1 or world_size % self.shard_size):
            sizes = ", ".join(str(size) for size in range(1, world_size + 1) if world_size % size == 0)
            raise ConfigError(f"strategy.shard_size={self.shard_size}: does not divide the {world_size} processes; right would be one of {sizes}")

    def mesh(self, world_size: int, device_type: str) -> DeviceMesh:
        import os

        from torch.distributed.device_mesh import init_device_mesh

        local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        size = self.shard_size or (local if local < world_size and world_size % local == 0 else _half(world_size))
        return init_device_mesh(device_type, (world_size // size, size), mesh_dim_names=("replicate", "shard"))


def _half(world_size: int) -> int:
    """The greatest divisor of `world_size` that leaves at least two copies; 1 for one process."""
    return max((size for size in range(1, world_size // 2 + 1) if world_size % size == 0), default=1)
