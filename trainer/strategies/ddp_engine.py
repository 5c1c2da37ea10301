"""The engine of `ddp`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import RunError
from trainer.strategies.ddp import DDP, FindUnused
from trainer.strategies.engine import Batch, Engine, LossFn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config


class DDPEngine(Engine):
    """All-reduces gradients in buckets while backward runs, once a step."""

    model: DistributedDataParallel

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, mesh: DeviceMesh, knobs: DDP):
        super().__init__(module, optimizer, config, device, mesh)
        self.knobs = knobs
        self.probing = knobs.find_unused_parameters is FindUnused.auto
        self.model = self._wrap(find_unused=knobs.find_unused_parameters is not FindUnused.false)

    def _wrap(self, find_unused: bool) -> DistributedDataParallel:
        return DistributedDataParallel(
            self.module,
            process_group=self.mesh.get_group() if self.mesh.ndim == 1 else None,
            bucket_cap_mb=self.knobs.bucket_cap_mb,
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
            init_sync=False,  # all ranks made the same values
            broadcast_buffers=False,  # `sync_buffers` averages them, under every strategy
        )

    def grad_sync(self, last: bool) -> AbstractContextManager:
        return nullcontext() if last else self.model.no_sync()

    def forward_backward(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor | float) -> Tensor:
        if self.probing:
            return self._probe(batches, loss_fn, scale)
        try:
            return super().forward_backward(batches, loss_fn, scale)
        except RuntimeError as error:
            if "Expected to have finished reduction" in str(error):
                raise RunError(
                    "strategy=ddp: a parameter that took part in the first step took none in this one; set strategy.find_unused_parameters=true"
                ) from error
            raise

    def _probe(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor | float) -> Tensor:
        """The first step, watching whether every parameter takes part in every micro-batch."""
        self.probing = False
        uses = [0] * len(self.trainable)

        def count(index: int) -> None:
            uses[index] += 1

        hooks = [p.register_post_accumulate_grad_hook(lambda _, i=i: count(i)) for i, p in enumerate(self.trainable)]
        total = super().forward_backward(batches, loss_fn, scale)
        for hook in hooks:
            hook.remove()
        unused = torch.tensor(float(min(uses) < len(batches)), device=self.device)
        dist.all_reduce(unused, op=dist.ReduceOp.MAX, group=self.model.process_group)
        if not unused.item():
            self.model._remove_autograd_hooks()  # else the old reducer would go on beside the new one
            self.model = self._wrap(find_unused=False)
        return total
