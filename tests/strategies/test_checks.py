"""What a strategy cannot do is an error that names one that can, before anything starts where that is possible."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.sections import OptimizerName
from trainer.strategies.base import Strategy
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single


@pytest.mark.parametrize(
    ("strategy", "world_size", "optim", "told"),
    [
        (Single(), 2, {}, "strategy=single: is for 1 process, and there are 2; use strategy=ddp, or launcher.nproc_per_node=1"),
        (
            FSDP(),
            2,
            {"name": OptimizerName.adafactor},
            "optim.name=adafactor: is not implemented for sharded tensors in PyTorch; use optim.name=adamw, or strategy=ddp",
        ),
        (HSDP(shard_size=3), 4, {}, "strategy.shard_size=3: does not divide the 4 processes; right would be one of 1, 2, 4"),
        (HSDP(shard_size=0), 6, {}, "strategy.shard_size=0: does not divide the 6 processes; right would be one of 1, 2, 3, 6"),
    ],
)
def test_refused_when_the_config_is_read(strategy: Strategy, world_size: int, optim: dict, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        strategy.check(tiny.config(strategy, optim=optim), world_size)
    assert str(caught.value) == told


def setup(config: Config) -> str:
    try:
        tiny.make_engine(config)
    except ConfigError as error:
        return str(error)
    return "made"


@pytest.mark.parametrize(
    ("strategy", "model", "told"),
    [
        (
            FSDP(),
            Tiny(tied="blocks"),
            "strategy=fsdp: parameter blocks.1.up.weight is tied across two blocks, which FSDP2 cannot shard; use strategy=ddp, or zero1",
        ),
        (HSDP(), Tiny(scalar=True), "strategy=hsdp: parameter scale.weight is a scalar, which FSDP2 cannot shard; give it shape (1,), or use strategy=ddp"),
    ],
)
def test_refused_when_the_model_is_known(strategy: Strategy, model: Tiny, told: str) -> None:
    assert ranks.run(2, setup, tiny.config(strategy, model=model)) == [told, told]


def shape(strategy: Strategy) -> tuple[int, ...]:
    return tuple(strategy.mesh(dist.get_world_size(), "cpu").shape)


@pytest.mark.parametrize(
    ("strategy", "world_size", "per_node", "expected"),
    [
        (HSDP(), 1, 1, (1, 1)),
        (HSDP(), 2, 2, (2, 1)),
        (HSDP(), 3, 3, (3, 1)),
        (HSDP(), 4, 4, (2, 2)),
        (HSDP(), 4, 2, (2, 2)),
        (HSDP(), 4, 1, (4, 1)),
        (HSDP(), 6, 6, (2, 3)),
        (HSDP(shard_size=4), 4, 2, (1, 4)),
        (HSDP(shard_size=1), 4, 4, (4, 1)),
        (FSDP(), 4, 2, (4,)),
    ],
)
def test_mesh(strategy: Strategy, world_size: int, per_node: int, expected: tuple[int, ...]) -> None:
    """One copy a node; on one node at least two copies."""
    assert ranks.run(world_size, shape, strategy, env={"LOCAL_WORLD_SIZE": str(per_node)}) == [expected] * world_size


def test_nothing_to_train_is_said() -> None:
    told = ranks.run(1, setup, tiny.config(Single(), model=AllFrozen()))
    assert told == ["model: every parameter is frozen, so there is nothing to train; freeze fewer"]


class AllFrozen(Tiny):
    """Tiny, with every parameter kept."""

    def frozen(self, name: str) -> bool:
        return True
