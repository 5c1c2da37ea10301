"""A run on reduced data: its checkpoint alone tells how a new row is reduced, and decides it in whatever goes on from there."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import ranks, tiny
from trainer.checkpoint.directory import MANIFEST, Damaged
from trainer.checkpoint.reduction import reduction, take
from trainer.data.reduce import Reduce
from trainer.data.reduced import have
from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.distributed import Place
from trainer.models.mlp import MLP
from trainer.posttrain.load import load
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP

DATA = Synthetic(kind=SyntheticKind.tabular, features=6, classes=3, samples=64, eval_samples=16, reduce=Reduce.pca, components=4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def trained(made, cache):
    """On a rank: train to the end; returns the digest of the reduction that it was trained with."""
    import torch.distributed as dist

    from trainer import worker

    os.environ["TRAINER_CACHE"] = cache
    worker.run(made, Place(dist.get_rank(), dist.get_world_size(), dist.get_rank()))
    return made.data.open("train").reduction.digest()


def run(made, count, cache):
    found = ranks.run(count, trained, made, str(cache))
    assert len(set(found)) == 1
    return found[0]


def config(run_dir, strategy, **train):
    made = tiny.config(strategy, run_dir, model=MLP(hidden=[5]), max_steps=4, micro_batch_size=None, **train)
    return dataclasses.replace(made, data=DATA)


@pytest.fixture
def made(tmp_path, cache):
    """A run on 2 ranks up to step 2, (its config, its checkpoint)."""
    made = config(tmp_path / "run", FSDP(), stop_at=2)
    digest = run(made, 2, cache)
    path = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert reduction(path).digest() == digest
    return made, path


def turned(found):
    """Another fit of the same: as degenerate eigenvalues and another machine's rounding may have it."""
    return dataclasses.replace(found, components=found.components[[1, 0, 2, 3]])


def test_a_checkpoint_alone_reduces_a_row_and_decides_the_data(made, cache):
    made, path = made
    samples = made.data.open("eval")
    found = reduction(path)
    raw = np.stack([samples.original[i]["features"] for i in range(16)])
    np.testing.assert_allclose(found.apply(raw), samples.flat(0, 16)[0], atol=1e-6)
    assert found.describe() == samples.reduction.describe()
    assert found.names == ("x0", "x1", "x2", "x3", "x4", "x5")
    for spoil in (lambda: shutil.rmtree(cache), lambda: have(turned(found))):
        spoil()
        loaded = load(path)
        assert loaded.config.data.open("eval").reduction.digest() == found.digest()
        assert loaded.config.data.open("eval")[3]["features"].tolist() == samples[3]["features"].tolist()
    assert loaded.module(torch.from_numpy(found.apply(raw).astype(np.float32))).shape == (16, 3)


def test_training_goes_on_with_the_reduction_of_the_checkpoint(made, cache):
    made, path = made
    found = reduction(path)
    have(turned(found))
    again = dataclasses.replace(made, strategy=DDP(), train=dataclasses.replace(made.train, stop_at=None))
    assert run(again, 1, cache) == found.digest()
    last = path.with_name("step-00000004")
    assert reduction(last).digest() == found.digest()
    losses = [json.loads(line)["loss"] for line in (Path(made.run_dir) / "metrics.jsonl").read_text().splitlines()]
    straight = config(Path(made.run_dir).with_name("straight"), DDP())
    run(straight, 1, cache)
    expected = [json.loads(line)["loss"] for line in (Path(straight.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_fit_that_ranks_do_not_share_is_made_again_by_all(tmp_path):
    digests = ranks.run(2, with_caches_of_their_own, str(tmp_path))
    assert digests[0] == digests[1]


def with_caches_of_their_own(place):
    """On a rank, as on a machine of its own: rank 1 finds another fit than rank 0."""
    import torch.distributed as dist

    os.environ["TRAINER_CACHE"] = f"{place}/{dist.get_rank()}"
    own = DATA.open("train").reduction
    if dist.get_rank() == 1:
        have(turned(own))
    DATA.prepare(torch.device("cpu"))
    return DATA.open("train").reduction.digest()


def test_a_reduction_that_is_not_what_was_written(made):
    _, path = made
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["reduction"]["sha256"] = "0" * 64
    manifest.pop("checksum")
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="the reduction of its data is not what was written"):
        take(path)
