"""One process."""

from __future__ import annotations

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
class Single(Strategy):
    """Plain PyTorch on one process: what every other strategy must be equal to."""

    name: ClassVar[str] = "single"

    def check(self, config: Config, world_size: int) -> None:
        if world_size != 1:
            raise ConfigError(f"strategy=single: is for 1 process, and there are {world_size}; use strategy=ddp, or launcher.nproc_per_node=1")

    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        from trainer.optim import make_optimizer, param_groups
        from trainer.strategies.engine import Engine, transform_blocks

        blueprint.fill(blueprint.module)
        transform_blocks(blueprint, config)
        groups = param_groups(blueprint.model, blueprint.module, config.optim.weight_decay)
        return Engine(blueprint.module, make_optimizer(config.optim, groups), config, blueprint.device, mesh)
