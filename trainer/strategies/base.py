"""What a strategy is: a choice of how ranks share one model, made into an `Engine` at run time."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.part import Part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.engine import Engine


@dataclass(kw_only=True)
class Strategy(Part):
    """One way to train a model on several processes. The dataclass is the knobs; `setup` the work."""

    name: ClassVar[str]
    """The word that selects it."""
    elementwise_only: ClassVar[bool] = False
    """Optimizer state is cut without regard to tensors: only elementwise optimizers are right."""

    def check(self, config: Config, world_size: int) -> None:
        """Raise `ConfigError` for what this strategy cannot do, naming one that can. Without torch."""

    def mesh(self, world_size: int, device_type: str) -> DeviceMesh:
        """The device mesh; all of its dimensions together are the data-parallel ranks."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("dp",))

    @abstractmethod
    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        """Materialise the model shard by shard, distribute it and make its optimizer."""
