"""The engine of `accelerate`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.sections import Precision
from trainer.strategies.accelerate import Accelerate, check_accumulation, check_device
from trainer.strategies.ddp_engine import DDPEngine
from trainer.strategies.engine import Batch, Engine, LossFn, OnLoss

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config


def make_accelerator(config: Config, device: torch.device, world_size: int, asked: Mapping[str, Any]) -> Accelerator:
    """An `Accelerator` on this process's group that is what was asked for (keys of an `accelerate` config file).

    Raises:
        ConfigError: it made something else of it.
    """
    kind = str(asked.get("distributed_type", ""))
    check_device(kind, bool(asked.get("use_cpu")), "strategy=accelerate", device.type)
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process: its group is gone
    GradientState._reset_state()
    mixed = "bf16" if config.train.precision is Precision.bf16 else "no"
    check_accumulation(os.environ)  # of this process: `check` may have run on another machine
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
    made, wanted = accelerator.distributed_type.value, "MULTI_CPU" if device.type == "cpu" else "MULTI_GPU"
    if (made != wanted and world_size > 1) or accelerator.num_processes != world_size or accelerator.device.type != device.type:
        raise ConfigError(
            f"strategy=accelerate: asked for {kind or wanted} with {world_size} processes on {device.type}, and Accelerate made {made} "
            f"with {accelerator.num_processes} on {accelerator.device.type} of it; use strategy=ddp"
        )
    return accelerator


class AccelerateEngine(DDPEngine):
    """DDP by Accelerate's own calls (without a launcher and with one process it leaves the model as it is)."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        device: torch.device,
        mesh: DeviceMesh,
        knobs: Accelerate,
        accelerator: Accelerator,
    ):
        self.accelerator = accelerator
        super().__init__(module, accelerator.prepare(optimizer), config, device, mesh, knobs)
        self.plain = accelerator.distributed_type is DistributedType.NO
        if self.plain:
            self.model = accelerator.prepare(module)

    def _replicated(self, find_unused: bool) -> nn.Module:
        self.accelerator.ddp_handler = DistributedDataParallelKwargs(  # type: ignore[assignment]
            bucket_cap_mb=self.knobs.bucket_cap_mb or DistributedDataParallelKwargs.bucket_cap_mb,
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # `sync_buffers` averages them, under every strategy
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # the only name that Accelerate has for it
            return self.accelerator.prepare(self.module)

    def forward_backward(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor, on_loss: OnLoss) -> None:
        if self.plain:
            Engine.forward_backward(self, batches, loss_fn, scale, on_loss)
        else:
            super().forward_backward(batches, loss_fn, scale, on_loss)

    def grad_sync(self, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor, scale: Tensor, last: bool) -> None:
        self.accelerator.backward(loss * scale)
        if last:
            self._complete()

    def clip(self, max_norm: float) -> Tensor:
        if not max_norm:
            return super().clip(max_norm)
        norm = self.accelerator.clip_grad_norm_(self.trainable, max_norm)
        assert norm is not None
        return norm
