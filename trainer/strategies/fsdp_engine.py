"""The engine of `fsdp` and `hsdp`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from trainer.errors import ConfigError
from trainer.sections import Precision
from trainer.strategies.agreement import Agreement
from trainer.strategies.engine import Batch, Engine, LossFn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.models.base import Model
    from trainer.strategies.fsdp import FSDP


def shard(blueprint: Blueprint, config: Config, mesh: DeviceMesh, knobs: FSDP) -> None:
    """Fill and shard the blueprint's module in place, a block at a time.

    Raises:
        ConfigError: a parameter that FSDP2 cannot shard.
    """
    _refuse_what_cannot_be_sharded(blueprint, knobs.name)
    mixed = config.train.precision is Precision.bf16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if mixed else MixedPrecisionPolicy()
    offload = CPUOffloadPolicy(pin_memory=blueprint.device.type == "cuda") if knobs.cpu_offload else OffloadPolicy()
    for unit in (*blueprint.blocks, blueprint.module):
        blueprint.fill(unit)
        fully_shard(unit, mesh=mesh, reshard_after_forward=knobs.reshard_after_forward, mp_policy=policy, offload_policy=offload)


def _refuse_what_cannot_be_sharded(blueprint: Blueprint, strategy: str) -> None:
    """FSDP2 would cut a parameter that two blocks share into two that drift apart; it has no rule for scalars."""
    owner: dict[int, int] = {}
    inside = {id(sub): index for index, block in enumerate(blueprint.blocks) for sub in block.modules()}
    for name, submodule in blueprint.module.named_modules():
        for key, parameter in submodule.named_parameters(recurse=False):
            full_name, unit = f"{name}.{key}" if name else key, inside.get(id(submodule), -1)
            if owner.setdefault(id(parameter), unit) != unit:
                raise ConfigError(f"strategy={strategy}: parameter {full_name} is tied across two blocks, which FSDP2 cannot shard; use strategy=ddp, or zero1")
            if parameter.ndim == 0:
                raise ConfigError(f"strategy={strategy}: parameter {full_name} is a scalar, which FSDP2 cannot shard; give it shape (1,), or use strategy=ddp")


class _AllGather(DefaultAllGather):
    """FSDP's own, announced."""

    def __init__(self, agreement: Agreement, unit: str):
        self._agreement, self._entry = agreement, f"the gathering of {unit}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._agreement.note(self._entry)
        return super().__call__(*args, **kwargs)


class _ReduceScatter(DefaultReduceScatter):
    """FSDP's own, announced; when its buffers are made, because where a shard is the whole there is only an all-reduce."""

    def __init__(self, agreement: Agreement, unit: str):
        self._agreement, self._entry = agreement, f"the gradients of {unit}"

    def allocate(self, *args: Any, **kwargs: Any) -> Tensor:
        self._agreement.note(self._entry)
        return super().allocate(*args, **kwargs)


class FSDPEngine(Engine):
    """Gathers each block's parameters when it runs; reduces and scatters its gradients."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, mesh: DeviceMesh, knobs: FSDP):
        super().__init__(module, optimizer, config, device, mesh)
        assert isinstance(module, FSDPModule)
        self.root: FSDPModule = module
        self.no_sync = knobs.no_sync
        self.shard_group = mesh.get_group(mesh.ndim - 1)
        self._sharded = list(module.named_parameters())
        # Gradients of a unit have one layout, whatever was used: sums over micro-batches and ranks stay right.
        module.set_reduce_scatter_unused_params(True)
        self.agreement: Agreement | None = None
        self.used = bytearray(len(self.trainable))
        if mesh.size() > 1:
            self._watch(knobs.name)

    def _watch(self, strategy: str) -> None:
        """Note each unit's collectives, and which parameters get a gradient."""
        agreement = self.agreement = Agreement(strategy)
        index = {id(parameter): i for i, parameter in enumerate(self.trainable)}
        places = {name: index[id(parameter)] for name, parameter in self._sharded if id(parameter) in index}
        for name, unit in self.module.named_modules():
            if not isinstance(unit, FSDPModule):
                continue
            unit.unshard()  # hooks go onto the parameters that autograd sees
            for key, parameter in self.module.named_parameters():
                if key in places and not hasattr(parameter, "device_mesh"):
                    parameter.register_post_accumulate_grad_hook(lambda _, i=places[key]: self.used.__setitem__(i, 1))
            unit.reshard()
            unit.set_custom_all_gather(_AllGather(agreement, name or "the model's root"))
            unit.set_custom_reduce_scatter(_ReduceScatter(agreement, name or "the model's root"))

    def forward(self, loss_fn: LossFn, batch: Batch) -> Tensor:
        if self.agreement is not None:
            self.agreement.begin()
        return loss_fn(self.model, batch)  # the mixed precision policy does what autocast would

    def metrics(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return model.metrics(self.model, batch)

    def backward(self, loss: Tensor, scale: Tensor, last: bool) -> None:
        if self.no_sync:
            self.root.set_requires_gradient_sync(last)
        elif self.mesh.ndim == 2:  # shards are summed up first, copies are averaged once
            self.root.set_requires_all_reduce(last)
        super().backward(loss, scale, last)
        if self.agreement is not None:
            self.agreement.end(self._use())
            self.used[:] = bytes(len(self.used))

    def _use(self) -> str:
        """Which parameters got a gradient in this micro-batch."""
        unused = [i for i, used in enumerate(self.used) if not used]
        if not unused:
            return "a gradient for every parameter"
        names = {id(parameter): name for name, parameter in self._sharded}
        return f"no gradient for {', '.join(names[id(self.trainable[i])] for i in unused)}"

    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """On local shards, with one all-reduce: operations on DTensors cost more than the arithmetic."""
        grads = [parameter.grad.to_local() for parameter in self.trainable]  # type: ignore[union-attr]
        square = torch.nn.utils.get_total_norm(grads).to(torch.float64).square()
        if self.shard_group.size() > 1:
            dist.all_reduce(square, group=self.shard_group)
        norm = square.sqrt().to(grads[0].dtype)
        if max_norm:
            torch._foreach_mul_(grads, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm.to(self.device)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self._sharded)  # not the module's: between forward and backward those are whole, in the dtype of the arithmetic
