"""A tiny language model with every awkwardness a strategy must bear, and one way to train it on a rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.checkpoint.directory import MODEL_IDENTITY
from trainer.config import Config, to_plain
from trainer.data.base import IGNORE
from trainer.data.synthetic import Synthetic
from trainer.launchers.local import Local
from trainer.loader import Loader
from trainer.models.base import Model
from trainer.sections import CheckpointConfig, OptimConfig, Precision, TrainConfig
from trainer.strategies.base import Strategy
from trainer.strategies.engine import Engine

VOCAB = 13
_MESHES: dict[str, DeviceMesh] = {}


class Block(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)
        self.gate = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, use_gate: bool = True) -> Tensor:
        y = self.down(torch.tanh(self.up(self.norm(x))))
        return x + self.dropout(y * torch.sigmoid(self.gate(x)) if use_gate else y)


class Net(nn.Module):
    def __init__(self, knobs: Tiny) -> None:
        super().__init__()
        self.knobs = knobs
        self.embed = nn.Embedding(VOCAB, knobs.dim)
        self.blocks = nn.ModuleList(Block(knobs.dim, knobs.dropout) for _ in range(knobs.layers))
        self.extra = nn.Linear(knobs.dim, knobs.dim)
        self.head = nn.Linear(knobs.dim, VOCAB, bias=False)
        if knobs.tied == "root":
            self.head.weight = self.embed.weight
        elif knobs.tied == "blocks":
            self.blocks[1].up.weight = self.blocks[0].up.weight
        if knobs.running_mean:
            self.stats = nn.BatchNorm1d(knobs.dim, affine=False)
        if knobs.scalar:
            self.scale = Scale()
        self.forwards = 0

    def uses(self, part: str) -> bool:
        """Whether `part` ("extra", "gate", "block1") is used in this forward, from what `use` says of it."""
        when = self.knobs.use.get(part, "always")
        word, _, which = when.partition(":")
        number = int(which) if which.isdigit() else 0
        return {
            "always": True,
            "never": False,
            "rank": dist.get_rank() == number,
            "from": self.forwards >= number,
            "until": self.forwards < number,
            "late": self.forwards < number or dist.get_rank() == 0,
            "odd": self.forwards % 2 == 1,
            "among": str(self.forwards) in which.split(","),
        }[word]

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        x = self.embed(input_ids)
        order = list(self.blocks)
        if not self.uses("block1"):
            del order[1]
        if not self.uses("order"):
            order.reverse()
        for i, block in enumerate(order):
            x = block(x, i != 0 or self.uses("gate"))
        if self.uses("extra"):
            x = x + self.extra(x)
        if self.knobs.running_mean:
            x = self.stats(x.transpose(1, 2)).transpose(1, 2)
        if self.knobs.scalar:
            x = x * self.scale.weight
        if self.training:
            self.forwards += 1
        logits = self.head(x)
        return F.cross_entropy(
            logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)), labels.flatten(), ignore_index=IGNORE, reduction="sum"
        )


class Scale(nn.Module):
    """A parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


@dataclass(kw_only=True)
class Tiny(Model):
    dim: int = 8
    layers: int = 3
    dropout: float = 0.0
    tied: str = ""
    freeze: str = ""
    running_mean: bool = False
    scalar: bool = False
    use: dict[str, str] = field(default_factory=dict)
    nan_at: str = ""
    """"RANK:FORWARD[,FORWARD]:KIND", where a value is not finite: KIND is loss, gradient, or constant (the loss, and not its gradients)."""
    nan_ids: list[list[int]] = field(default_factory=list)
    """The loss of a sample with one of these `input_ids` is not finite (in micro-batches of 1)."""

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        return Net(self)

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return list(module.blocks)  # type: ignore[arg-type]

    def frozen(self, name: str) -> bool:
        return bool(self.freeze) and name.startswith(self.freeze)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        loss = module(batch["input_ids"], batch["labels"])
        if self.nan_at:
            rank, forwards, kind = self.nan_at.split(":")
            plain = module.module if hasattr(module, "module") else module
            if dist.get_rank() == int(rank) and str(plain.forwards) in forwards.split(",") and module.training:
                loss = {"loss": loss * float("nan"), "gradient": _NanGradient.apply(loss), "constant": loss + float("inf")}[kind]
        if module.training and batch["input_ids"][0].tolist() in self.nan_ids:
            loss = loss * float("nan")
        return loss


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * float("nan")


def config(strategy: Strategy, run_dir: Path | str = "unused", *, model: Model | None = None, optim: dict[str, Any] | None = None, **train: Any) -> Config:
    """A run of `Tiny` on 64 uneven samples: batches of 8, a clip that binds, a rate at which mistakes show."""
    return Config(
        run_dir=str(run_dir),
        strategy=strategy,
        model=model or Tiny(),
        data=Synthetic(samples=64, eval_samples=11, vocab_size=VOCAB, seq_len=6, uneven=True),
        launcher=Local(),
        train=TrainConfig(**{"max_steps": 5, "global_batch_size": 8, "micro_batch_size": 1, **train}),
        optim=OptimConfig(**{"lr": 0.02, "max_norm": 0.5, "warmup_steps": 2, **(optim or {})}),
        checkpoint=CheckpointConfig(),
    )


@dataclass
class Trained:
    """What came out on one rank."""

    losses: list[float]
    norms: list[float]
    lrs: list[float]
    parameters: dict[str, Tensor]
    evaluated: dict[str, float]


def make_engine(config: Config) -> Engine:
    """The engine of this rank (there is a process group)."""
    from trainer.worker import build_engine

    return build_engine(config, config.data.open("train"), torch.device("cpu"), mesh(config.strategy))


def mesh(strategy: Strategy | None) -> DeviceMesh:
    """The mesh of `strategy`; a run too makes one, for all of its engines. Process groups live as long as the process."""
    assert strategy is not None
    key = f"{strategy.name} {getattr(strategy, 'shard_size', None)}"
    return _MESHES.get(key) or _MESHES.setdefault(key, strategy.mesh(dist.get_world_size(), "cpu"))


def parameters(engine: Engine) -> dict[str, Tensor]:
    """Whole values by canonical name. A collective."""
    return {name: value.clone() for name, value in engine.full_tensors()}


def loader(config: Config, first: int, last: int) -> Loader:
    """This rank's batches of steps `first` to `last`."""
    return Loader(
        config.data.open("train"),
        config.model,
        seed=config.train.seed,
        global_batch=config.train.global_batch_size,
        micro_batch=config.train.micro_batch_size,
        rank=dist.get_rank(),
        ranks=dist.get_world_size(),
        device=torch.device("cpu"),
        steps=range(first, last + 1),
        prefetch=2,
        workers=1,
    )


def train(config: Config, *, engine: Engine | None = None, first: int = 1) -> Trained:
    """Train on this rank (there is a process group) without a run directory, from step `first` to `stop_at` or `max_steps`."""
    from trainer.loop import evaluate, train_steps

    engine = engine or make_engine(config)
    batches = loader(config, first, config.train.stop_at or config.train.max_steps)
    results = []
    try:
        for result in train_steps(engine, config.model, batches, config, first, []):
            values = result.read()
            assert not values.bad_in_a_row
            results.append((values.loss, values.grad_norm, result.lr))
    finally:
        batches.close()
    losses, norms, lrs = (list(column) for column in zip(*results, strict=True))
    evaluated = evaluate(engine, config.model, config.data.open("eval"), 2)
    assert evaluated is not None
    return Trained(losses, norms, lrs, parameters(engine), evaluated.means())


class Exchanges(TorchDispatchMode):
    """Notes the collectives that this rank takes part in while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def assert_equal(trained: Trained, expected: Trained) -> None:
    """Equal but for the order of sums."""
    assert trained.losses == pytest.approx(expected.losses, rel=1e-5)
    assert trained.norms == pytest.approx(expected.norms, rel=1e-5)
    assert trained.lrs == expected.lrs
    assert trained.parameters.keys() == expected.parameters.keys()
    for name, value in expected.parameters.items():
        torch.testing.assert_close(trained.parameters[name], value, rtol=1e-5, atol=1e-5)
    assert trained.evaluated == pytest.approx(expected.evaluated, rel=1e-6)


def fp64(config: Config) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=Precision.fp64))


def facts(config: Config) -> dict[str, Any]:
    """What of a manifest a later run is checked against."""
    return {"config": to_plain(config), MODEL_IDENTITY: config.model.identity(), "data_fingerprint": config.data.open("train").fingerprint}
