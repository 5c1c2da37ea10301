"""Arithmetic of what is refused."""

from __future__ import annotations

import pytest

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.launchers.local import Local
from trainer.sections import RunConfig, TrainConfig
from trainer.strategies.fsdp import HSDP
from trainer.validate import check_batch, largest_world_size, nearest


@pytest.mark.parametrize(("batch", "micro", "world"), [(1, None, 1), (8, 2, 4), (8, None, 8), (12, 3, 2)])
def test_batches_that_divide(batch, micro, world):
    check_batch(batch, micro, world)


@pytest.mark.parametrize(
    ("batch", "micro", "world", "message"),
    [
        (16, None, 3, "nearest batch sizes that can: 15, 18; nearest process counts: 2, 4"),
        (100, None, 6, "nearest batch sizes that can: 96, 102; nearest process counts: 5, 4|nearest process counts: 4, 5"),
        (2, None, 4, "is smaller than the 4 processes; give at least 4, or run on at most 2"),
        (24, 5, 2, "nearest that do: 4, 6"),
        (8, 16, 1, "nearest that do: 4, 8"),
    ],
)
def test_batches_that_do_not(batch, micro, world, message):
    with pytest.raises(ConfigError, match=message):
        check_batch(batch, micro, world)


@pytest.mark.parametrize(
    ("batch", "micro", "least", "most", "expected"),
    [(12, None, 1, 7, 6), (12, None, 1, 5, 4), (12, 4, 1, 5, 3), (12, None, 5, 5, None), (7, None, 2, 6, None), (8, None, 8, 8, 8)],
)
def test_the_largest_number_of_processes_that_fits(batch, micro, least, most, expected):
    train = TrainConfig(global_batch_size=batch, micro_batch_size=micro)
    assert largest_world_size(Config(train=train, run=RunConfig(min_ranks=least), launcher=Local()), most) == expected


def test_the_largest_number_of_processes_that_the_strategy_takes():
    config = Config(train=TrainConfig(global_batch_size=12), run=RunConfig(min_ranks=1), launcher=Local(), strategy=HSDP(shard_size=2))
    assert largest_world_size(config, 3) == 2


def test_the_nearest_key_is_found_by_its_whole_name_or_its_last_part():
    known = ["train.max_steps", "optim.lr", "checkpoint.every", "eval.every"]
    assert nearest("train.max_step", known) == "; did you mean 'train.max_steps'?"
    assert nearest("max_steps", known) == "; did you mean 'train.max_steps'?"
    assert "known: " in nearest("zzz", known)


def test_the_nearest_key_is_not_the_section_that_the_key_is_in():
    known = ["train", "train.max_steps", "optim", "optim.lr"]
    assert nearest("train.foo", known) == " (known: train.max_steps, ...)"
    assert nearest("train.lr", known) == "; did you mean 'optim.lr'?"
    assert nearest("train", known) == " (known: optim, optim.lr, train.max_steps, ...)"
