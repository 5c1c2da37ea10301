"""Methods that train: the same under every strategy, in the forms that they give the layers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from torch import nn

from tests import ranks, tiny
from tests.compress import small
from trainer.checkpoint.save import write
from trainer.compress.base import Compressor
from trainer.compress.binarize import Binarize
from trainer.compress.binarize import Kind as Bits
from trainer.compress.distill import Distill
from trainer.compress.model import Compressed
from trainer.compress.prune import Importance, Prune
from trainer.compress.quantize import Kind, Quantize
from trainer.compress.trained import TrainedLinear
from trainer.posttrain import values
from trainer.prove.compare import LOSS_BAND
from trainer.state import Position
from trainer.strategies.accelerate import Accelerate
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO, ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

STRATEGIES: dict[str, Strategy] = {
    "ddp": DDP(),
    "fsdp": FSDP(),
    "hsdp": HSDP(),
    "zero1": ZeRO1(),
    "zero2": ZeRO2(),
    "zero3": ZeRO3(),
    "accelerate": Accelerate(),
}
ROUNDED = 1e-3  # a weight on the border between two integers falls on either side
METHODS: dict[str, tuple[list[Compressor], float]] = {
    "prune": ([Prune(importance=Importance.magnitude)], LOSS_BAND),
    "2:4": ([Prune(importance=Importance.magnitude, pattern="2:4")], LOSS_BAND),
    "binary": ([Binarize(kind=Bits.binary)], ROUNDED),
    "ternary": ([Binarize(kind=Bits.ternary)], ROUNDED),
    "int4": ([Quantize(kind=Kind.int4, group_size=6)], ROUNDED),
    "int8_dynamic": ([Quantize(kind=Kind.int8_dynamic)], ROUNDED),
    "distill": ([Prune(importance=Importance.magnitude), Distill()], LOSS_BAND),
}
"""Those of a chain, the last of which trains, and how near its losses are."""
FAST = [("int8_dynamic", "fsdp"), ("prune", "fsdp")]


def learnt(method: str, strategy: Strategy, place: Path) -> tiny.Trained:
    """The small model, trained on this rank in the form that the last method prepares, from what those before it have made of its values."""
    *before, part = METHODS[method][0]
    now = small.subject(small.config())
    source = write(values.model_state(now.engine), Position(0, 0), place, {})
    for each in before:
        now = values.changed(now, each.run(now), small.config())
    start = write(values.model_state(now.engine), Position(1, 0), place, {})
    plain = small.config().model
    model = part.in_training(Compressed(base=plain, forms=part.prepare(now).forms, start=str(start)), plain, str(source))
    config = tiny.config(strategy, model=model, optim={"lr": 1e-3})
    return tiny.train(dataclasses.replace(config, data=small.config().data))


def on(world_size: int, method: str, strategy: Strategy) -> list[tiny.Trained]:
    slow = ["trainer.compress.integers", *(["trainer.strategies.deepspeed_engine"] if isinstance(strategy, ZeRO) else [])]
    with TemporaryDirectory() as place:
        return ranks.run(world_size, learnt, method, strategy, Path(place), timeout=200, preload=slow)


@functools.cache
def alone(method: str) -> tiny.Trained:
    (found,) = on(1, method, Single())
    return found


@pytest.mark.parametrize(
    ("method", "strategy"),
    [pytest.param(method, strategy, marks=() if (method, strategy) in FAST else pytest.mark.large) for method in METHODS for strategy in STRATEGIES],
)
def test_every_strategy_trains_the_same(method: str, strategy: str) -> None:
    assert alone(method).losses[-1] < alone(method).losses[0]
    for found in on(2, method, STRATEGIES[strategy]):
        assert found.losses == pytest.approx(alone(method).losses, rel=METHODS[method][1])


def test_a_layer_must_say_what_it_computes_with() -> None:
    with pytest.raises(TypeError, match=r"abstract class TrainedLinear .*effective"):
        TrainedLinear.replacing(nn.Linear(2, 2))
