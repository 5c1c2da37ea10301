"""Seeded bugs: real strategies, each with one mistake put into its engine. Every one must be found out."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.data.base import IGNORE
from trainer.models.gpt import GPT
from trainer.strategies.ddp import DDP
from trainer.strategies.engine import Engine
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single

FROZEN = "layers.0.input_layernorm.weight"


class Seen(nn.Module):
    """A buffer that belongs to the model's state and depends on what a rank has seen."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def reset_parameters(self) -> None:
        self.total.zero_()

    def forward(self, ids: Tensor) -> None:
        if self.training:
            self.total += ids.float().mean()


@dataclass(kw_only=True)
class Watching(GPT):
    """A gpt with tied weights, a frozen parameter and a buffer: what strategies most easily get wrong."""

    tie_embeddings: bool = True

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        module = super().build(spec)
        module.seen = Seen()
        return module

    def frozen(self, name: str) -> bool:
        return name == FROZEN

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        inner = getattr(module, "module", module)
        inner.seen(batch["input_ids"])
        return super().loss(module, batch)


def override(engine: Engine, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Engine:
    """Replace a method of this one engine by what `make` makes of it."""
    original = getattr(engine, name)
    setattr(engine, name, MethodType(lambda self, *args: make(original)(*args), engine))
    return engine


class Spoilt(ABC):
    """Before a strategy: its engine, spoilt by `change`."""

    def setup(self, blueprint, config, mesh):
        return self.change(super().setup(blueprint, config, mesh))

    @abstractmethod
    def change(self, engine: Engine) -> Engine: ...


class Changed(Spoilt, DDP): ...


class ChangedFSDP(Spoilt, FSDP): ...


class AveragedTwice(Changed):
    def change(self, engine):
        def clip(original):
            def wrong(max_norm):
                for parameter in engine.trainable:
                    parameter.grad /= dist.get_world_size()
                return original(max_norm)

            return wrong

        return override(engine, "clip", clip)


class Summed(ChangedFSDP):
    """Gradients scaled by the number of ranks."""

    def change(self, engine):
        for unit in [engine.module, *engine.module.layers]:
            unit.set_force_sum_reduction_for_comms(True)
            unit.set_gradient_divide_factor(1.0)
        return engine


class SameData(Changed):
    def setup(self, blueprint, config, mesh):
        from trainer import loader

        original = loader.micro_batches
        loader.micro_batches = lambda step, batch, rank, ranks, micro: original(step, batch, 0, ranks, micro)
        return super().setup(blueprint, config, mesh)

    def change(self, engine):
        return engine


class LocalClip(ChangedFSDP):
    """Clips by the norm of the rank's own shards, and reports the right one."""

    def change(self, engine):
        def clip(original):
            def wrong(max_norm):
                norm = original(0.0)
                shards = [parameter.grad.to_local() for parameter in engine.trainable]
                local = torch.nn.utils.get_total_norm(shards)
                for shard in shards:
                    shard.mul_(torch.clamp(max_norm / local, max=1.0))
                return norm

            return wrong

        return override(engine, "clip", clip)


class NoClip(Changed):
    def change(self, engine):
        return override(engine, "clip", lambda original: lambda max_norm: original(0.0))


class LastMicroBatchDropped(Changed):
    def change(self, engine):
        return override(engine, "forward_backward", lambda original: lambda batches, *rest: original(batches[:-1], *rest))


class AccumulationNotDivided(Changed):
    def change(self, engine):
        return override(
            engine, "forward_backward", lambda original: lambda batches, loss_fn, scale, *rest: original(batches, loss_fn, scale * len(batches), *rest)
        )


class MeanPerRank(Changed):
    """The loss is a mean over the rank's own tokens; ranks are averaged."""

    def change(self, engine):
        def forward_backward(original):
            def wrong(batches, loss_fn, scale, on_loss):
                original(batches, loss_fn, torch.tensor(1.0 / sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)), on_loss)

            return wrong

        return override(engine, "forward_backward", forward_backward)


class FirstMicroBatchAlone(Changed):
    """Gradients are cleared before the last micro-batch: accumulation forgets all others."""

    def change(self, engine):
        def backward(original):
            def wrong(loss: Tensor, scale: Tensor, last: bool):
                if last:
                    for parameter in engine.trainable:
                        if parameter.grad is not None:
                            parameter.grad.zero_()
                return original(loss, scale, last)

            return wrong

        return override(engine, "backward", backward)


class NeverSynchronised(Changed):
    """Gradients stay each rank's own."""

    def change(self, engine):
        engine._wrap(False, engine.trainable)
        return override(engine, "grad_sync", lambda original: lambda last: original(False))


class GradientsKept(Changed):
    """The gradients of a step are not cleared."""

    def change(self, engine):
        engine.optimizer.zero_grad = lambda set_to_none=True: None
        return engine


class SchedulerPerRank(Changed):
    def change(self, engine):
        from trainer import loop

        original = loop.lr_factor
        loop.lr_factor = lambda optim, step, max_steps: original(optim, min(step * dist.get_world_size(), max_steps), max_steps)
        return engine


class NoDecay(Changed):
    def change(self, engine):
        for group in engine.optimizer.param_groups:
            group["weight_decay"] = 0.0
        return engine


class DecayEverything(Changed):
    """Norms and embeddings decay too: the same settings, in other groups."""

    def change(self, engine):
        first, second = engine.optimizer.param_groups
        first["params"], second["params"] = first["params"] + second["params"][:-1], second["params"][-1:]
        return engine


class OtherBetas(Changed):
    def change(self, engine):
        for group in engine.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (0.9, 0.999)
        return engine


class OtherEpsilon(Changed):
    def change(self, engine):
        for group in engine.optimizer.param_groups:
            if "eps" in group:
                group["eps"] = 1e-5
        return engine


class FrozenUpdated(Changed):
    def change(self, engine):
        def step(original):
            def wrong(*args):
                norm = original(*args)
                with torch.no_grad():
                    dict(engine.named_parameters())[FROZEN].mul_(1 - 1e-6)
                return norm

            return wrong

        return override(engine, "step", step)


class BuffersNotSynchronised(Changed):
    def change(self, engine):
        return override(engine, "sync_buffers", lambda original: lambda: None)


class Untied(Changed):
    def setup(self, blueprint, config, mesh):
        fill, module = blueprint.fill, blueprint.module

        def fill_and_untie(part):
            fill(part)
            module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())

        blueprint.fill = fill_and_untie
        return super().setup(blueprint, config, mesh)

    def change(self, engine):
        return engine


class SeedByRank(Changed):
    def setup(self, blueprint, config, mesh):
        from trainer import materialise

        original, rank = materialise.stable_seed, dist.get_rank()
        materialise.stable_seed = lambda *parts: original(*parts, *([rank] if rank else []))
        return super().setup(blueprint, config, mesh)

    def change(self, engine):
        return engine


class OtherSeed(Changed):
    """All ranks alike, but not with the values of one process."""

    def setup(self, blueprint, config, mesh):
        from trainer import materialise

        original = materialise.stable_seed
        materialise.stable_seed = lambda *parts: original(*parts, "other")
        return super().setup(blueprint, config, mesh)

    def change(self, engine):
        return engine


class HalfPrecision(Changed):
    """Forward runs in bf16, though fp32 was asked for."""

    def change(self, engine):
        def forward(original):
            def wrong(*args):
                with torch.autocast("cpu", torch.bfloat16):
                    return original(*args)

            return wrong

        return override(engine, "forward", forward)


class Fails(Single):
    def check(self, config, world_size):
        pass

    def setup(self, blueprint, config, mesh):
        if dist.get_rank() == 1:
            raise ValueError("no such luck")
        return super().setup(blueprint, config, mesh)


class Dies(Fails):
    def setup(self, blueprint, config, mesh):
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().setup(blueprint, config, mesh)


class Hangs(Fails):
    def setup(self, blueprint, config, mesh):
        time.sleep(600)
        return super().setup(blueprint, config, mesh)


BUGS: Sequence[type] = (
    AveragedTwice,
    Summed,
    SameData,
    LocalClip,
    NoClip,
    LastMicroBatchDropped,
    AccumulationNotDivided,
    MeanPerRank,
    FirstMicroBatchAlone,
    NeverSynchronised,
    GradientsKept,
    SchedulerPerRank,
    NoDecay,
    DecayEverything,
    OtherBetas,
    OtherEpsilon,
    FrozenUpdated,
    BuffersNotSynchronised,
    Untied,
    SeedByRank,
    OtherSeed,
    HalfPrecision,
)
