"""One rank's share of a model in training: forward, backward, optimizer step, and its state.

The base is plain PyTorch on one process. A strategy's engine overrides what differs, and nothing
else differs: batches, loss, clipping and the skipping of a bad step mean the same under all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer import precision

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.models.base import Model

Batch = Mapping[str, Tensor]
LossFn = Callable[[nn.Module, Batch], Tensor]
Scalar = Tensor | float
"""A tensor on a GPU, which is not waited for; a number on the CPU, where that takes less time."""
OnLoss = Callable[[Scalar], None]


class Engine:
    """A model, its optimizer and how they move, on one rank."""

    flops: tuple[float, str] = (0.0, "")
    """`Model.flops` of the whole model."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, mesh: DeviceMesh, model: nn.Module | None = None
    ):
        self.module = module
        """The plain module: canonical parameter names."""
        self.model = module if model is None else model
        """What is called in forward: the module itself, or the strategy's wrapper around it."""
        self.optimizer = optimizer
        self.device = device
        self.mesh = mesh
        self.precision = config.train.precision
        self.lr = config.optim.lr
        self.trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.buffers = [(name, value) for name, value in self.persistent_buffers() if value.is_floating_point()]
        self.max_bad_steps = config.train.max_bad_steps
        self.bad_in_a_row: Scalar = 0.0 if device.type == "cpu" else torch.zeros((), dtype=torch.float64, device=device)
        """Steps up to now, one after another, that moved nothing (read by the loop). From more than `max_bad_steps` on, none moves."""
        self._state_buffers = [value for _, value in self.persistent_buffers()]
        self._buffers_before: list[Tensor] = []

    # -- one step -----------------------------------------------------------------------------

    def forward_backward(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor, on_loss: OnLoss) -> None:
        """Accumulate gradients of `scale` * loss over the micro-batches.

        `scale` is the number of data ranks / count over the global batch, on this device: ranks are averaged. `on_loss` is
        called with the local loss sum in fp64 before the last backward, so that a collective it starts runs beside that.
        """
        losses: list[Any] = []
        self._buffers_before = [buffer.clone() for buffer in self._state_buffers]  # forward moves them before a bad step is known
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with self.grad_sync(last):
                loss = self.forward(loss_fn, batch)
                losses.append(as_scalar(loss.detach()))
                if last:
                    on_loss(losses[0] if i == 0 else sum(losses))
                self.backward(loss, scale.to(loss.dtype), last)

    def forward(self, loss_fn: LossFn, batch: Batch) -> Tensor:
        """`loss_fn` of this rank's model under its precision."""
        with precision.autocast(self.precision, self.device):
            return loss_fn(self.model, batch)

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`model.metrics` under this rank's precision."""
        with precision.autocast(self.precision, self.device):
            return model.metrics(self.model, batch)

    def grad_sync(self, last: bool) -> AbstractContextManager:
        """Surrounds a micro-batch; gradients are exchanged in the `last` one."""
        return nullcontext()

    def backward(self, loss: Tensor, scale: Tensor, last: bool) -> None:
        """Add `scale` times the gradients of `loss`, both scalars of one dtype."""
        loss.backward(scale)

    def step(self, loss: Scalar, max_norm: float, lr_factor: float) -> Scalar:
        """Clip, step and clear gradients; returns the global gradient norm before clipping.

        `loss` is the global one. If it or the norm is not finite, nothing moves in this step on any rank,
        and after more than `max_bad_steps` in a row in no later one: decided on the device, so that no GPU waits for it.
        """
        self.sync_buffers()
        for parameter in self.trainable:
            if parameter.grad is None:  # unused in this step: a zero gradient, as under every strategy
                parameter.grad = torch.zeros_like(parameter)
        norm = as_scalar(self.clip(max_norm))
        self.note_bad(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        if self.trainable[0].is_cuda and getattr(self.optimizer, "_step_supports_amp_scaling", False):  # fused: skips by itself
            self.optimizer.found_inf = torch.as_tensor(self.bad_in_a_row).clamp(max=1).to(torch.float32)  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not self.bad_in_a_row:
            self.optimizer.step()
        self.restore_buffers()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def sync_buffers(self) -> None:
        """Average floating-point buffers that belong to the model's state over the ranks (most models have none)."""
        for _, buffer in self.buffers:
            if self.mesh.size() > 1:
                dist.all_reduce(buffer)
                buffer /= self.mesh.size()

    def note_bad(self, loss: Scalar, norm: Scalar) -> None:
        """Count this step in `bad_in_a_row`, or begin again at 0 where the loss and the norm are finite."""
        both = loss + norm
        bad = not_finite(both) if isinstance(both, Tensor) else not math.isfinite(both)  # a GPU is not waited for
        self.bad_in_a_row = (self.bad_in_a_row + 1) * (bad | (self.bad_in_a_row > self.max_bad_steps))

    def restore_buffers(self) -> None:
        """Take back what the forwards of a bad step did to the buffers that belong to the model's state."""
        if not isinstance(self.bad_in_a_row, Tensor) and not self.bad_in_a_row:
            return
        bad = torch.as_tensor(self.bad_in_a_row) > 0
        for buffer, before in zip(self._state_buffers, self._buffers_before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))

    def clip(self, max_norm: float) -> Tensor:
        """Scale gradients to a global norm of at most `max_norm` (0: leave them); the norm before."""
        if max_norm:
            return torch.nn.utils.clip_grad_norm_(self.trainable, max_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])

    # -- state --------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Canonical names and this rank's parameters; tied ones once."""
        return self.module.named_parameters()

    def numel(self) -> int:
        """Elements of all parameters, tied ones once, over all ranks."""
        return sum(parameter.numel() for _, parameter in self.named_parameters())

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, whole value on the CPU) of each parameter in fp32 or fp64, one at a time. A collective."""
        for name, parameter in self.named_parameters():
            yield name, _full(parameter.detach()).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Parameters, buffers and optimizer moments under canonical names, as this rank holds them."""
        state: dict[str, Any] = {f"model.{name}": value.detach() for name, value in self.named_parameters()}
        state |= {f"model.{name}": value for name, value in self.persistent_buffers()}
        for name, parameter in self.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if key != "step":  # the same for all: the number of optimizer steps
                    state[f"optim.{key}.{name}"] = value
        return state

    def held(self) -> dict[str, Tensor]:
        """This rank's own tensors, from which `state_of` makes what `state_dict` gives: taken without an exchange."""
        return self.state_dict()

    def state_of(self, held: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> dict[str, Any]:
        """`state_dict` as of when `held` was taken. A collective.

        With a `group` of the CPU, `held` is a copy on the CPU, and training may go on beside it.
        """
        return dict(held)

    def init_optimizer_state(self, step: int) -> None:
        """Make the optimizer's state exist, zero and counting `step` steps, so that it can be loaded in place.

        A step at rate 0 with gradients of 0 moves no parameter.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for parameter in self.trainable:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.reset_optimizer_state(step)

    def reset_optimizer_state(self, step: int) -> None:
        """Zero the optimizer's state (weight decay may have been added to gradients of 0), and count `step` steps."""
        for state in self.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    value.fill_(step if key == "step" else 0)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over `state`: the dict that `state_dict` returned, its tensors loaded in place."""

    def persistent_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Canonical names and values of buffers that belong to the model's state."""
        keys = set(self.module.state_dict().keys())
        return ((name, value) for name, value in self.module.named_buffers() if name in keys)


def as_scalar(value: Tensor) -> Scalar:
    """`value`, of one element, as a number where it is on the CPU; in fp64."""
    return value.item() if value.device.type == "cpu" else value.to(torch.float64)


def not_finite(value: Tensor) -> Tensor:
    """Whether each element is NaN or infinite. In two operations; `torch.isfinite` takes four, and small steps feel it."""
    return value - value != 0


def _full(value: Tensor) -> Tensor:
    full_tensor = getattr(value, "full_tensor", None)
    return value if full_tensor is None else full_tensor()


def transform_blocks(blueprint: Blueprint, config: Config) -> None:
    """Activation checkpointing and compilation of each block, in place: names do not change."""
    from torch.utils.checkpoint import checkpoint

    for key in ("activation_checkpointing", "compile"):
        if getattr(config.train, key) and not blueprint.blocks:
            warnings.warn(f"train.{key}=true: has no effect, because {type(blueprint.model).__name__} names no blocks", stacklevel=2)
    for block in blueprint.blocks:
        if config.train.activation_checkpointing:  # compiled inside of it: Dynamo passes over a block whose `forward` is a partial, without a word
            forward = torch.compile(block.forward) if config.train.compile else block.forward
            block.forward = partial(checkpoint, forward, use_reentrant=False)
        elif config.train.compile:
            block.compile()
