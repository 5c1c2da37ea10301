"""The engine of `ddp`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.strategies.ddp import DDP, FindUnused
from trainer.strategies.engine import Batch, Engine, LossFn, OnLoss

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config


class DDPEngine(Engine):
    """All-reduces gradients in buckets while backward runs, once a step."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, mesh: DeviceMesh, knobs: DDP):
        super().__init__(module, optimizer, config, device, mesh)
        self.knobs = knobs
        if knobs.find_unused_parameters is not FindUnused.auto:
            self._wrap(knobs.find_unused_parameters is FindUnused.true, list(reversed(self.trainable)))

    def _wrap(self, find_unused: bool, order: Sequence[nn.Parameter]) -> None:
        """Wrap the module in DDP, its buckets in the `order` in which gradients become ready.

        DDP lays its buckets out anew after its first backward, and the order in which ranks are summed depends on where
        an element lies. So the first backward is one of zeros: every step then has the same layout, also the first one
        after a checkpoint, which is bit-equal to the uninterrupted run.
        """
        self.model = self._replicated(find_unused)
        if not find_unused:  # else the layout stays
            self._exchange({parameter: torch.zeros_like(parameter) for parameter in order})
            for parameter in order:
                parameter.grad = None

    def _replicated(self, find_unused: bool) -> nn.Module:
        return DistributedDataParallel(
            self.module,
            process_group=self.mesh.get_group(),
            bucket_cap_mb=self.knobs.bucket_cap_mb,
            find_unused_parameters=find_unused,
            gradient_as_bucket_view=True,
            init_sync=False,  # all ranks made the same values
            forward_sync_buffers=False,  # `sync_buffers` averages them, under every strategy
        )

    def _exchange(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Average `gradients` over the ranks as DDP's backward does; they become ready in this order."""
        assert isinstance(self.model, DistributedDataParallel)
        self.model._pre_forward()
        for parameter in gradients:
            parameter.grad = None
        exchanged: Any = self.model._post_forward(self._loss_of(gradients))
        exchanged.backward()
        self.model._check_reducer_finalized()

    def _loss_of(self, gradients: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """A scalar whose backward finds exactly `gradients`, in their order."""
        loss = torch.zeros((), device=self.device)
        for parameter, gradient in reversed(list(gradients.items())):  # autograd visits first what was added last
            loss = loss + (parameter * gradient).sum()
        return loss

    def grad_sync(self, last: bool) -> AbstractContextManager:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) and not last else nullcontext()

    def forward_backward(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor, on_loss: OnLoss) -> None:
        take = super().forward_backward if isinstance(self.model, DistributedDataParallel) else self._first_step
        take(batches, loss_fn, scale, on_loss)

    def backward(self, loss: Tensor, scale: Tensor, last: bool) -> None:
        super().backward(loss, scale, last)
        if last:
            self._complete()

    def _complete(self) -> None:
        """Where parameters took no part in the last backward, DDP still waits for them: give it zeros, and it ends its exchange.

        The hooks of its reducer stay armed until each parameter was seen once, so this goes on where that backward stopped,
        and the averages are those of a backward that had found the zeros by itself.
        """
        if isinstance(self.model, DistributedDataParallel):
            try:
                self.model._check_reducer_finalized()
            except RuntimeError as error:  # how DDP tells which ones, and the only way to ask
                unused = [self.trainable[index] for index in _not_seen(error)]
                self._loss_of({parameter: torch.zeros_like(parameter) for parameter in unused}).backward()
                self.model._check_reducer_finalized()

    def _first_step(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor, on_loss: OnLoss) -> None:
        """Average without DDP, watch whether each parameter takes part in each micro-batch, and wrap accordingly."""
        uses = [0] * len(self.trainable)
        order: dict[nn.Parameter, None] = {}

        def count(index: int) -> None:
            uses[index] += 1
            order.setdefault(self.trainable[index])

        hooks = [p.register_post_accumulate_grad_hook(lambda _, i=i: count(i)) for i, p in enumerate(self.trainable)]
        super().forward_backward(batches, loss_fn, scale, on_loss)
        for hook in hooks:
            hook.remove()
        group = self.mesh.get_group()
        unused = torch.tensor(float(min(uses) < len(batches)), device=self.device)
        dist.all_reduce(unused, op=dist.ReduceOp.MAX, group=group)
        gradients = {parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in [*order, *self.trainable]}
        self._wrap(bool(unused.item()), list(gradients))
        self._exchange(gradients)


def _not_seen(error: RuntimeError) -> list[int]:
    """Which parameters DDP waits for, by their place among those that are trained."""
    found = re.search(r"did not receive grad for rank \d+:((?: \d+)+)", str(error))
    if found is None:
        raise error
    return [int(index) for index in found[1].split()]
