"""The engine of `zero1`, `zero2` and `zero3`."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import deepspeed
import deepspeed.comm
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.optim import make_optimizer, param_groups
from trainer.sections import Precision
from trainer.strategies.agreement import Agreement
from trainer.strategies.deepspeed_gradients import announce_exchanges, announce_gradients, forget_gradients
from trainer.strategies.deepspeed_state import Part, held3, parts3, parts12, rows, state_keys, unrows, whole
from trainer.strategies.engine import Batch, Engine, LossFn, OnLoss, Scalar, as_scalar, transform_blocks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.deepspeed import ZeRO


def make_engine(blueprint: Blueprint, config: Config, mesh: DeviceMesh, knobs: ZeRO) -> Engine:
    """Materialise, cut and wrap the blueprint's module.

    Raises:
        ConfigError: a parameter that DeepSpeed cannot hold, or DeepSpeed was imported for another device.
    """
    _refuse_scalars(blueprint, knobs.name)
    _prepare(blueprint.device)
    if knobs.cpu_offload and blueprint.device.type == "cpu":
        warnings.warn("strategy.cpu_offload=true: saves nothing on the CPU, where all memory is the host's", stacklevel=2)
    options = deepspeed_options(config, knobs)
    zero = options["zero_optimization"]
    # DeepSpeed allocates whole buckets in every step: none larger than the model.
    zero["reduce_bucket_size"] = min(zero["reduce_bucket_size"], sum(p.numel() for p in blueprint.module.parameters() if p.requires_grad))
    transform_blocks(blueprint, config)
    groups = param_groups(blueprint.model, blueprint.module, config.optim.weight_decay)  # by shape: before parameters are cut
    names = {parameter: name for name, parameter in blueprint.module.named_parameters()}
    if knobs.stage == 3:
        _fill_and_cut(blueprint, options)
    else:
        blueprint.fill(blueprint.module)
    filled = dict(blueprint.module.named_parameters())
    groups = [group | {"params": [filled[names[parameter]] for parameter in group["params"]]} for group in groups]
    optimizer = make_optimizer(config.optim, groups)
    agreement = Agreement(knobs.name) if mesh.size() > 1 and knobs.stage > 1 else None
    if agreement is not None:
        announce_gradients(blueprint.module, agreement)  # before DeepSpeed's own hooks
    wrapped, *_ = deepspeed.initialize(model=blueprint.module, optimizer=optimizer, config=options, dist_init_required=False)
    if agreement is not None:
        announce_exchanges(blueprint.module, wrapped.optimizer, agreement)
    return ZeROEngine(blueprint.module, wrapped, optimizer, config, blueprint.device, mesh, agreement)


def deepspeed_options(config: Config, knobs: ZeRO) -> dict[str, Any]:
    """The config that DeepSpeed is given.

    Accumulation is ours ("managed_gradient_accumulation": false): every `step` is a boundary, and
    the loss that comes to backward is scaled already.
    """
    options: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own reports, which are off
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.optim.max_norm,
        "zero_optimization": knobs.zero_options(),
        "zero_allow_untested_optimizer": True,  # SGD is elementwise
        "zero_force_ds_cpu_optimizer": False,
        "log_level": "warning",
    }
    if config.train.precision is Precision.bf16:
        # Parameters, gradients, their exchange and the optimizer's state stay fp32, as under ddp.
        options["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return options


def _refuse_scalars(blueprint: Blueprint, strategy: str) -> None:
    for name, parameter in blueprint.module.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(f"strategy={strategy}: parameter {name} is a scalar, which DeepSpeed cannot hold; give it shape (1,), or use strategy=ddp")


def _prepare(device: torch.device) -> None:
    """Make DeepSpeed use this process's group and device, and build nothing."""
    logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls, not the user's
    accelerator: Any = get_accelerator()
    found = accelerator.device_name()
    if found != device.type:
        raise ConfigError(f"train.device: DeepSpeed was imported for {found!r} before this run on {device.type!r}; set DS_ACCELERATOR={device.type}")
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    if device.type == "cpu":
        setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010 # or it tries a C compiler on each of its operations, and builds one for minutes
    deepspeed.comm.init_distributed(accelerator.communication_backend_name(), dist_init_required=False, verbose=False)


def _fill_and_cut(blueprint: Blueprint, options: dict[str, Any]) -> None:
    """Fill a block, or a layer outside of blocks, and cut its parameters over the ranks before the next."""
    layers = [part for part in blueprint.module.modules() if part._parameters and not list(part.children())]
    for part in [*blueprint.blocks, *layers, blueprint.module]:
        blueprint.fill(part)
        deepspeed.zero.Init(module=part, config_dict_or_path=options)


class ZeROEngine(Engine):
    """DeepSpeed's engine, driven by our loop."""

    def __init__(
        self,
        module: nn.Module,
        wrapped: Any,
        optimizer: torch.optim.Optimizer,
        config: Config,
        device: torch.device,
        mesh: DeviceMesh,
        agreement: Agreement | None,
    ):
        super().__init__(module, optimizer, config, device, mesh, wrapped)
        self.agreement = agreement
        self.wrapped = wrapped
        self.zero = wrapped.optimizer
        self.stage = int(wrapped.zero_optimization_stage())
        self.max_norm = config.optim.max_norm

    def forward_backward(self, batches: Sequence[Batch], loss_fn: LossFn, scale: Tensor, on_loss: OnLoss) -> None:
        forget_gradients(self.zero)
        super().forward_backward(batches, loss_fn, scale, on_loss)

    def forward(self, loss_fn: LossFn, batch: Batch) -> Tensor:
        if self.agreement is not None:
            self.agreement.begin()
        return super().forward(loss_fn, batch)

    def backward(self, loss: Tensor, scale: Tensor, last: bool) -> None:
        # DeepSpeed judges by gradients alone, and those of a loss that is not finite can be finite.
        value = loss.detach()
        self.wrapped.backward(loss * (scale * (value - value + 1)))

    def step(self, loss: Scalar, max_norm: float, lr_factor: float) -> Scalar:
        assert max_norm == self.max_norm, "DeepSpeed takes the clip when it is made"
        self.sync_buffers()
        if self.stage == 1:  # exchanged in this step: the same ones on every rank
            for parameter in self.trainable:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        norm: Scalar = math.nan
        if self.bad_in_a_row <= self.max_bad_steps:
            self.wrapped.step()  # DeepSpeed itself steps on no rank where the norm is not finite, and forgets the gradients
            norm = as_scalar(torch.as_tensor(self.wrapped.get_global_grad_norm(), device=self.device))
        self.note_bad(loss, norm)
        self.restore_buffers()
        return norm

    # -- state --------------------------------------------------------------------------------

    def numel(self) -> int:
        return sum(_shape(parameter).numel() for _, parameter in self.named_parameters())

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        parts = self._parts()
        for name, parameter in self.named_parameters():
            yield name, self._value(parameter, parts.get(parameter)).cpu()

    def state_dict(self) -> dict[str, Any]:
        return self.state_of(self.held())

    def held(self) -> dict[str, Tensor]:
        parts = self._parts()
        held: dict[str, Tensor] = {f"model.{name}": value for name, value in self.persistent_buffers()}
        for name, parameter in self.named_parameters():
            held[f"model.{name}"], _ = self._held(parameter, parts.get(parameter))
        for key, name, parameter in self._optimizer_state():
            if (part := parts.get(parameter)) is not None:
                held[f"optim.{key}.{name}"] = part.view(self.optimizer.state[part.flat][key])
        return held

    def state_of(self, held: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> dict[str, Any]:
        parts = self._parts()
        state: dict[str, Any] = {f"model.{name}": held[f"model.{name}"] for name, _ in self.persistent_buffers()}
        device = self.device if group is None else torch.device("cpu")
        for name, parameter in self.named_parameters():
            key = f"model.{name}"
            start = self._held(parameter, parts.get(parameter))[1]
            state[key] = rows(whole(held[key], start, _shape(parameter), device, group), self.mesh) if self.stage == 3 else held[key]
        for kind, name, parameter in self._optimizer_state():
            key, part = f"optim.{kind}.{name}", parts.get(parameter)
            state[key] = rows(whole(held.get(key), part.start if part else 0, _shape(parameter), device, group), self.mesh)
        return state

    def init_optimizer_state(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # nothing moves; each step sets the real one
        groups = [group["params"] for group in self.optimizer.param_groups]
        for group, flats in zip(self.optimizer.param_groups, self._flats_by_group(), strict=True):
            group["params"] = flats
            for flat in flats:
                flat.grad = torch.zeros_like(flat)
        self.optimizer.step()
        for group, params in zip(self.optimizer.param_groups, groups, strict=True):
            group["params"] = params
        for flat in self._flats():
            flat.grad = None
        self.reset_optimizer_state(step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parts = self._parts()
        for name, parameter in self.named_parameters():
            self._set_value(parameter, parts.get(parameter), unrows(state[f"model.{name}"]))
        for key, name, parameter in self._optimizer_state():
            full = unrows(state[f"optim.{key}.{name}"])
            part = parts.get(parameter)
            if part is not None:
                part.view(self.optimizer.state[part.flat][key]).copy_(full[part.start : part.start + part.numel])
        if self.stage == 3:
            persistent = self.zero.persistent_parameters
            if persistent:  # gather what stays whole on every rank again
                persistent[0].partition(persistent)
                persistent[0].all_gather(persistent)

    def _parts(self) -> dict[nn.Parameter, Part]:
        return parts3(self.zero) if self.stage == 3 else parts12(self.zero)

    def _flats(self) -> list[Tensor]:
        return self.zero.fp32_partitioned_groups_flat if self.stage == 3 else self.zero.single_partition_of_fp32_groups

    def _flats_by_group(self) -> list[list[Tensor]]:
        groups: list[list[Tensor]] = [[] for _ in self.optimizer.param_groups]
        for index, flat in enumerate(self._flats()):
            groups[self.zero.sub_group_to_group_id[index] if self.stage == 3 else index].append(flat)
        return groups

    def _optimizer_state(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """(key, name, parameter) of each tensor of optimizer state, in the same order on all ranks."""
        for key in state_keys(self.optimizer, self._flats()):
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:
                    yield key, name, parameter

    def _held(self, parameter: Any, part: Part | None) -> tuple[Tensor, int]:
        """What this rank holds of a parameter, in fp32, and its first element: under stage 1 and 2 all of it."""
        if self.stage != 3:
            return parameter.detach(), 0
        if part is not None:
            return part.view(part.flat), part.start
        start, numel = held3(parameter)  # frozen
        return parameter.ds_tensor.detach()[:numel], start

    def _value(self, parameter: Any, part: Part | None) -> Tensor:
        """The whole value of a parameter in fp32. A collective under stage 3."""
        held, start = self._held(parameter, part)
        return whole(held, start, _shape(parameter), self.device) if self.stage == 3 else held

    def _set_value(self, parameter: Any, part: Part | None, full: Tensor) -> None:
        """Take `full` over as this rank's part of a parameter (under stage 1 and 2 it was loaded into the whole one)."""
        if part is not None:
            part.view(part.flat).copy_(full[part.start : part.start + part.numel])
        if self.stage == 3:
            start, numel = held3(parameter)
            parameter.ds_tensor.data[:numel].copy_(full[start : start + numel])


def _shape(parameter: Any) -> torch.Size:
    """Of the whole parameter."""
    return getattr(parameter, "ds_shape", parameter.shape)
