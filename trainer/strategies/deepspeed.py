"""ZeRO by DeepSpeed: optimizer state (stage 1), gradients (2) and parameters (3) are cut over the ranks.

Rajbhandari et al. 2020, arXiv:1910.02054.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import ConfigError, missing_extra
from trainer.strategies.base import Strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.engine import Engine


@dataclass(kw_only=True)
class ZeRO(Strategy):
    """What the three stages have in common."""

    stage: ClassVar[int]
    """What is cut: 1 optimizer state, 2 gradients too, 3 parameters too."""
    elementwise_only: ClassVar[bool] = True

    cpu_offload: bool = False
    """Keep the optimizer's state in host memory and step there; under zero3 the parameters' shards too."""
    reduce_bucket_size: int = 500_000_000
    """Elements of gradients that are exchanged at a time."""

    def validate(self) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise missing_extra("deepspeed", "deepspeed", f"strategy={self.name}")
        if self.reduce_bucket_size < 1:
            raise ConfigError(f"strategy.reduce_bucket_size={self.reduce_bucket_size}: must be at least 1")

    def check(self, config: Config, world_size: int) -> None:
        if config.train.precision.name == "fp64":
            raise ConfigError(f"train.precision=fp64: strategy={self.name} keeps its state in fp32; use strategy=single, ddp or fsdp, or train.precision=fp32")
        if self.cpu_offload and config.train.device.name == "cpu":
            raise ConfigError("strategy.cpu_offload=true: has no effect with train.device=cpu, where all memory is the host's; leave it out")

    def zero_options(self) -> dict[str, Any]:
        """DeepSpeed's `zero_optimization` section."""
        options: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": self.reduce_bucket_size}
        if self.cpu_offload:
            options["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        return options

    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        if blueprint.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, by `deepspeed_engine`
        from trainer.strategies.deepspeed_engine import make_engine

        return make_engine(blueprint, config, mesh, self)


@dataclass(kw_only=True)
class ZeRO1(ZeRO):
    """Each rank keeps and steps its part of the optimizer's state; gradients are averaged once a step."""

    name: ClassVar[str] = "zero1"
    stage: ClassVar[int] = 1


@dataclass(kw_only=True)
class ZeRO2(ZeRO):
    """As stage 1, and each rank keeps only its part of the gradients: they are exchanged in every micro-batch."""

    name: ClassVar[str] = "zero2"
    stage: ClassVar[int] = 2

    overlap_comm: bool = False
    """Exchange gradients while backward goes on, on GPUs; takes a second bucket of memory."""

    def zero_options(self) -> dict[str, Any]:
        return super().zero_options() | {"overlap_comm": self.overlap_comm}


@dataclass(kw_only=True)
class ZeRO3(ZeRO):
    """As stage 2, and each rank keeps only its part of the parameters: a layer's are gathered when it runs."""

    name: ClassVar[str] = "zero3"
    stage: ClassVar[int] = 3

    overlap_comm: bool = True
    """Exchange gradients while backward goes on, on GPUs."""
    param_persistence_threshold: int = 100_000
    """Parameters of fewer elements stay whole on every rank."""
    prefetch_bucket_size: int = 50_000_000
    """Elements of parameters that are gathered ahead of their use."""
    max_live_parameters: int = 1_000_000_000
    """Elements of parameters that may be whole at once on a rank; fewer take less memory and more gathering."""

    def validate(self) -> None:
        super().validate()
        for name in ("param_persistence_threshold", "prefetch_bucket_size", "max_live_parameters"):
            if getattr(self, name) < 0:
                raise ConfigError(f"strategy.{name}={getattr(self, name)}: must be at least 0")

    def zero_options(self) -> dict[str, Any]:
        options = super().zero_options() | {
            "overlap_comm": self.overlap_comm,
            "stage3_param_persistence_threshold": self.param_persistence_threshold,
            "stage3_prefetch_bucket_size": self.prefetch_bucket_size,
            "stage3_max_live_parameters": self.max_live_parameters,
        }
        if self.cpu_offload:
            options["offload_param"] = {"device": "cpu", "pin_memory": True}
        return options
