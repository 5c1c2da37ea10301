"""Runs that change their strategy and number of ranks twice, against one process that was not interrupted."""

from __future__ import annotations

import random

import pytest

from tests.commands import TINY, run
from tests.launchers.running import losses

STEPS, STOPS = 9, (3, 6)
COMMON = [
    *TINY,
    f"train.max_steps={STEPS}",
    "train.global_batch_size=8",
    "train.micro_batch_size=1",
    "model.tie_embeddings=true",
    "model.sample_tokens=1",
    "eval.at_end=false",
    "run_dir=run",
]
MANY = ("ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3", "accelerate", "ray")
CELLS = [("single", 1), *((strategy, ranks) for strategy in MANY for ranks in (1, 2, 4) if (strategy, ranks) != ("hsdp", 1))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    place = tmp_path_factory.mktemp("uninterrupted")
    done = run(*COMMON, "strategy=single", cwd=place)
    assert done.returncode == 0, done.stderr
    return losses(place / "run")


@pytest.mark.large
@pytest.mark.parametrize("seed", range(12))
def test_two_changes_of_strategy_and_ranks_in_one_run(seed, uninterrupted, tmp_path):
    chosen = random.Random(seed).sample(CELLS, 3)
    for (strategy, ranks), stop in zip(chosen, (*STOPS, STEPS), strict=True):
        done = run(*COMMON, f"+strategy={strategy}", f"launcher.nproc_per_node={ranks}", f"train.stop_at={stop}", cwd=tmp_path, timeout=280)
        assert done.returncode == 0, f"{chosen}: {done.stdout}{done.stderr}"
    assert [step for step, _, _ in losses(tmp_path / "run")] == list(range(1, STEPS + 1))
    for ours, theirs in zip(losses(tmp_path / "run"), uninterrupted, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), chosen
