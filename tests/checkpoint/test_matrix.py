"""Runs that change their strategy and number of ranks twice, against one process that was not interrupted."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.commands import TINY, run
from tests.launchers.running import losses
from trainer.checkpoint.directory import directory
from trainer.checkpoint.export import export_plain
from trainer.prove.compare import parameter_band
from trainer.prove.saved import saved_differences

Cell = tuple[str, int]

STEPS, STOPS = 9, (3, 6)  # both in the middle of an epoch, which is 4 steps
FROZEN = "layers.0.mlp.up_proj.weight"
COMMON = [
    *TINY,
    f"train.max_steps={STEPS}",
    "train.global_batch_size=8",
    "train.micro_batch_size=1",
    "data.samples=32",
    "model.tie_embeddings=true",
    f"model.freeze=[{FROZEN}]",
    "model.sample_tokens=1",
    "eval.at_end=false",
]
SEVERAL = ("ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3", "accelerate", "ray")
CELLS = [("single", 1), *((strategy, ranks) for strategy in SEVERAL for ranks in (1, 2, 4))]
SEED = 0


def another(cell: Cell, other: Cell) -> bool:
    """Another strategy on another number of ranks."""
    return cell[0] != other[0] and cell[1] != other[1]


def cycle(rng: random.Random) -> list[Cell]:
    """All cells once, in a random order in which each, the last too, is followed by `another`."""
    while True:
        found, left = [], rng.sample(CELLS, len(CELLS))
        while fitting := [cell for cell in left if not found or another(found[-1], cell)]:
            found.append(fitting[0])
            left.remove(fitting[0])
        if not left and another(found[-1], found[0]):
            return found


CYCLE = cycle(random.Random(SEED))
CHAINS = [[CYCLE[(start + i) % len(CYCLE)] for i in range(3)] for start in range(0, len(CYCLE), 2)]


def test_every_cell_is_saved_from_and_loaded_into():
    assert len(CHAINS) >= 12
    assert {cell for chain in CHAINS for cell in chain[:2]} == set(CELLS)
    assert {cell for chain in CHAINS for cell in chain[1:]} == set(CELLS)
    assert all(another(*pair) for chain in CHAINS for pair in pairwise(chain))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(the run of one process, a file with its initial values)."""
    place = tmp_path_factory.mktemp("uninterrupted")
    for extra in (["run_dir=run"], ["run_dir=still", "optim.lr=0", "train.stop_at=1"]):
        done = run(*COMMON, "strategy=single", *extra, cwd=place)
        assert done.returncode == 0, done.stderr
    export_plain(directory(place / "still", 1), place / "initial.safetensors")
    return place / "run", place / "initial.safetensors"


@pytest.mark.large
@pytest.mark.parametrize("chain", CHAINS, ids=["-".join(f"{strategy}_{ranks}" for strategy, ranks in chain) for chain in CHAINS])
def test_two_changes_of_strategy_and_ranks_in_one_run(chain, uninterrupted, tmp_path):
    """Losses and norms of every step, and every tensor of the last checkpoint, are within the bands of `prove`; the frozen ones have not moved."""
    for (strategy, ranks), stop in zip(chain, (*STOPS, STEPS), strict=True):
        cell = [f"strategy={strategy}", f"launcher.nproc_per_node={ranks}", f"train.stop_at={stop}"]
        done = run(*COMMON, *cell, "run_dir=run", cwd=tmp_path, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    whole, initial = uninterrupted
    assert [step for step, _, _ in losses(tmp_path / "run")] == list(range(1, STEPS + 1))
    for ours, theirs in zip(losses(tmp_path / "run"), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    apart = saved_differences(directory(tmp_path / "run", STEPS), directory(whole, STEPS), initial)
    assert {name: value for name, value in apart.items() if value is None or value > parameter_band("adamw")} == {}
    assert apart[f"model.{FROZEN}"] == 0
