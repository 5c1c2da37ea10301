"""Distributed data parallel: every rank holds the whole model; gradients are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.strategies.base import Strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.engine import Engine


class FindUnused(Enum):
    """Whether DDP looks in each backward for parameters that took no part."""

    auto = "auto"
    true = "true"
    false = "false"


@dataclass(kw_only=True)
class DDP(Strategy):
    """`torch.nn.parallel.DistributedDataParallel`."""

    name: ClassVar[str] = "ddp"

    bucket_cap_mb: int | None = None
    """Size of a gradient bucket in MiB; null: PyTorch's own default."""
    find_unused_parameters: FindUnused = FindUnused.auto
    """false: a parameter that took no part is given its zero gradient when backward is over, which costs nothing in a step that
    uses all. true: it is looked for before, in every step, so that the exchange of the others need not wait for it. auto: true
    if a parameter was unused in the first step."""

    def validate(self) -> None:
        if self.bucket_cap_mb is not None and self.bucket_cap_mb < 1:
            raise ConfigError(f"strategy.bucket_cap_mb={self.bucket_cap_mb}: must be at least 1, or null for PyTorch's default")

    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        from trainer.optim import make_optimizer, param_groups
        from trainer.strategies.ddp_engine import DDPEngine
        from trainer.strategies.engine import transform_blocks

        blueprint.fill(blueprint.module)
        transform_blocks(blueprint, config)
        groups = param_groups(blueprint.model, blueprint.module, config.optim.weight_decay)
        return DDPEngine(blueprint.module, make_optimizer(config.optim, groups), config, blueprint.device, mesh, self)
