"""Activation checkpointing, compilation and offload change where and when, not what."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny, Trained
from trainer.config import Config
from trainer.strategies.accelerate import Accelerate
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO, ZeRO2, ZeRO3
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

CUT = ZeRO3(param_persistence_threshold=0)
"""Every parameter is gathered for its layer: by default those of so small a model stay whole."""


def needs(extra: str, strategy: Strategy) -> Any:
    """A case of `strategy` on 2 ranks, left out where its extra is not installed."""
    absent = importlib.util.find_spec(extra) is None
    return pytest.param(strategy, 2, marks=pytest.mark.skipif(absent, reason=f"the extra `{extra}` is not installed"))


def trained_and_saved(config: Config) -> tuple[Trained, int]:
    """The result, and the greatest number of elements that one forward kept for backward (parameters left out)."""
    engine, kept = tiny.make_engine(config), []
    pointers = {parameter.untyped_storage().data_ptr() for _, parameter in engine.named_parameters()} if isinstance(config.strategy, Single) else set()
    original = engine.forward

    def forward(*args):
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            if tensor.untyped_storage().data_ptr() not in pointers:
                count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = original(*args)
        kept.append(count)
        return loss

    engine.forward = forward  # type: ignore[method-assign]
    return tiny.train(config, engine=engine), max(kept)


@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [(Single(), 1), (DDP(), 2), (FSDP(), 2), pytest.param(HSDP(), 2, marks=pytest.mark.large)],
    ids=["single", "ddp", "fsdp", "hsdp"],
)
def test_activation_checkpointing_keeps_less_and_changes_nothing(strategy: Strategy, world_size: int) -> None:
    """Dropout too is the same when a block runs again."""
    plain = tiny.config(strategy, model=Tiny(dropout=0.2))
    config = dataclasses.replace(plain, train=dataclasses.replace(plain.train, activation_checkpointing=True))
    (expected, much), *_ = ranks.run(world_size, trained_and_saved, plain)
    (trained, little), *_ = ranks.run(world_size, trained_and_saved, config)
    assert trained.losses == expected.losses
    assert trained.norms == pytest.approx(expected.norms, rel=1e-6)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(trained.parameters[name], value, rtol=1e-5, atol=1e-6)
    if isinstance(strategy, Single):
        assert little < 0.5 * much


def trained_and_compiled(config: Config) -> tuple[Trained, int]:
    """The result, and how many graphs this rank has compiled."""
    from torch._dynamo.utils import counters

    return tiny.train(config), counters["stats"]["unique_graphs"]


@pytest.mark.large
@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [(Single(), 1), (DDP(), 2), (FSDP(), 2), needs("accelerate", Accelerate()), needs("deepspeed", ZeRO2()), needs("deepspeed", CUT)],
    ids=["single", "ddp", "fsdp", "accelerate", "zero2", "zero3"],
)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("activation_checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_compiled_blocks_give_the_same(strategy: Strategy, world_size: int, activation_checkpointing: bool) -> None:
    plain = tiny.config(strategy)
    config = dataclasses.replace(plain, train=dataclasses.replace(plain.train, compile=True, activation_checkpointing=activation_checkpointing))
    preload = ["trainer.strategies.deepspeed_engine"] if isinstance(strategy, ZeRO) else []
    expected = ranks.run(world_size, tiny.train, plain, timeout=500, preload=preload)[0]
    trained, graphs = ranks.run(world_size, trained_and_compiled, config, timeout=500, preload=preload)[0]
    assert graphs > 0
    assert trained.losses == pytest.approx(expected.losses, rel=1e-4)
    assert trained.norms == pytest.approx(expected.norms, rel=1e-4)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(trained.parameters[name], value, rtol=1e-4, atol=1e-5)


def warnings_of(config: Config) -> list[str]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.make_engine(config)
    return [str(warning.message) for warning in caught if "has no effect" in str(warning.message)]


@dataclasses.dataclass(kw_only=True)
class Whole(Tiny):
    """A model that names no blocks."""

    def blocks(self, module: torch.nn.Module) -> list[torch.nn.Module]:
        return []


def test_a_knob_without_effect_warns() -> None:
    config = tiny.config(Single(), model=Whole(), activation_checkpointing=True, compile=True)
    assert ranks.run(1, warnings_of, config) == [
        [
            "train.activation_checkpointing=true: has no effect, because Whole names no blocks",
            "train.compile=true: has no effect, because Whole names no blocks",
        ]
    ]
    assert ranks.run(1, warnings_of, tiny.config(FSDP(cpu_offload=True))) == [["strategy.cpu_offload=true: has no effect on the CPU"]]


def test_offload_and_no_blocks_train_alike() -> None:
    expected = ranks.run(1, tiny.train, tiny.config(Single()))[0]
    for config in (tiny.config(FSDP(cpu_offload=True)), tiny.config(FSDP(), model=Whole()), tiny.config(FSDP(no_sync=True, cpu_offload=True))):
        assert ranks.run(2, tiny.train, config)[0].losses == pytest.approx(expected.losses, rel=1e-5)
