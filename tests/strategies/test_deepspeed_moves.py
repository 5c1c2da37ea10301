"""A run that zero1, zero2 or zero3 began or goes on with is the one that goes through: checkpoints move between strategies and numbers of ranks."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.strategies.zero import run
from tests.tiny import Tiny, Trained
from trainer.checkpoint.directory import find
from trainer.checkpoint.load import load
from trainer.checkpoint.save import save
from trainer.config import Config
from trainer.state import Position
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")


def save_at_3(config: Config, run_dir: str) -> None:
    engine = tiny.make_engine(config)
    tiny.train(dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=3)), engine=engine)
    save(engine, Position(3, 0), Path(run_dir), tiny.facts(config))


def resume(config: Config, run_dir: str) -> Trained:
    found = find(Path(run_dir), "auto")
    assert found is not None
    engine = tiny.make_engine(config)
    position = load(engine, found, tiny.facts(config))
    return tiny.train(config, engine=engine, first=position.step + 1)


SIX_STEPS: dict[str, Any] = {"max_steps": 6, "micro_batch_size": 2}
MOVES: dict[str, tuple[Strategy, int]] = {
    "single": (Single(), 1),
    "ddp": (DDP(), 2),
    "fsdp": (FSDP(), 2),
    "zero1": (ZeRO1(), 2),
    "zero2": (ZeRO2(), 2),
    "zero2-of-1": (ZeRO2(), 1),
    "zero3": (ZeRO3(param_persistence_threshold=20), 2),
    "zero3-of-4": (ZeRO3(param_persistence_threshold=0), 4),
}
FROM_TO = [
    ("zero2", "fsdp"),
    pytest.param("zero3", "zero2-of-1", marks=pytest.mark.large),
    pytest.param("zero3-of-4", "fsdp", marks=pytest.mark.large),
    pytest.param("zero1", "zero3", marks=pytest.mark.large),
    ("fsdp", "zero3"),
    pytest.param("single", "zero1", marks=pytest.mark.large),
    pytest.param("ddp", "zero2", marks=pytest.mark.large),
    pytest.param("zero2", "ddp", marks=pytest.mark.large),
    pytest.param("zero2", "single", marks=pytest.mark.large),
    pytest.param("zero2", "zero3", marks=pytest.mark.large),
    pytest.param("zero3", "zero3-of-4", marks=pytest.mark.large),
]


def six_steps(strategy: str) -> tuple[int, Config]:
    part, world_size = MOVES[strategy]
    return world_size, tiny.config(part, model=Tiny(tied="root", freeze="blocks.0"), **SIX_STEPS)


@functools.cache
def saved(strategy: str, directory: Path) -> str:
    world_size, config = six_steps(strategy)
    run(world_size, save_at_3, config, str(directory / strategy))
    return str(directory / strategy)


@functools.cache
def uninterrupted() -> Trained:
    return run(1, tiny.train, six_steps("single")[1])[0]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize(("source", "target"), FROM_TO)
def test_a_run_goes_on_under_another_strategy(source: str, target: str, directory: Path) -> None:
    world_size, config = six_steps(target)
    expected = uninterrupted()
    for found in run(world_size, resume, config, saved(source, directory)):
        assert found.losses == pytest.approx(expected.losses[3:], rel=1e-5)
        assert found.norms == pytest.approx(expected.norms[3:], rel=1e-5)
        for name, value in expected.parameters.items():
            torch.testing.assert_close(found.parameters[name], value, rtol=1e-5, atol=1e-5)
