"""When checkpoints are written: beside training from a copy, after a time, and before a stop."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import ranks, tiny
from tests.test_worker import metrics, run
from trainer.checkpoint.directory import directory, list_whole
from trainer.checkpoint.saver import HostCopy
from trainer.config import Config
from trainer.sections import CheckpointConfig, LogConfig
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP


def copied(config: Config) -> tuple[bool, bool, int, int]:
    """(a copy holds while training goes on, the next is in the same memory, bytes of the copy, bytes of the state)."""
    from trainer.loop import train_steps

    def local(value: torch.Tensor) -> torch.Tensor:
        return value.to_local() if hasattr(value, "to_local") else value  # type: ignore[operator]

    engine = tiny.make_engine(config)
    loader = tiny.loader(config, 1, 3)
    steps = train_steps(engine, config.model, loader, config, 1, [])
    next(steps)
    host = HostCopy(engine.device)
    state = engine.state_dict()
    copy, before = host.take(state), {name: local(value).clone() for name, value in state.items()}
    where = {name: local(value).data_ptr() for name, value in copy.items()}
    next(steps)
    now = engine.state_dict()
    moved = any(not torch.equal(local(now[name]), value) for name, value in before.items())
    holds = moved and all(torch.equal(local(copy[name]), value) and type(copy[name]) is type(state[name]) for name, value in before.items())
    again = host.take(engine.state_dict())
    loader.close()
    return holds, where == {name: local(value).data_ptr() for name, value in again.items()}, host.bytes, sum(value.nbytes for value in before.values())


@pytest.mark.parametrize("strategy", [DDP(), FSDP()], ids=["ddp", "fsdp"])
def test_the_copy_holds_while_training_goes_on(strategy: Strategy) -> None:
    for holds, same_memory, kept, held in ranks.run(2, copied, tiny.config(strategy)):
        assert (holds, same_memory) == (True, True)
        assert kept == held > 0


def printed(config: Config) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        return run(config), out.getvalue()


@pytest.mark.parametrize("strategy", [DDP(), FSDP()], ids=["ddp", "fsdp"])
def test_what_is_written_beside_training_is_what_is_written_while_it_waits(strategy: Strategy, tmp_path: Path) -> None:
    saved: dict[bool, dict[str, dict[str, torch.Tensor]]] = {}
    for overlap in (False, True):
        run_dir = tmp_path / str(overlap)
        config = dataclasses.replace(tiny.config(strategy, run_dir), checkpoint=CheckpointConfig(every=1, keep=9, overlap=overlap))
        (first, told), (second, other) = ranks.run(2, printed, config)
        assert (first, second, other) == ("done", "done", "")
        assert told.count("memory    checkpoint.overlap keeps a copy of the state: 0 MB on each rank\n") == overlap
        assert [path.name for path in list_whole(run_dir)] == [f"step-0000000{step}" for step in (1, 2, 3, 4, 5)]
        saved[overlap] = {str(file.relative_to(run_dir)): load_file(file) for file in sorted(run_dir.glob("checkpoints/*/*.safetensors"))}
    assert len(saved[True]) == 10
    assert saved[True].keys() == saved[False].keys()
    for name, waited in saved[False].items():
        beside = saved[True][name]
        assert beside.keys() == waited.keys()
        assert all(torch.equal(beside[key], value) for key, value in waited.items())


def test_saves_after_a_time(tmp_path: Path) -> None:
    """Rank 0's clock: each step is longer than the time, so each second one saves, in which the wish of the one before is read."""
    config = dataclasses.replace(tiny.config(DDP(), tmp_path, max_steps=7), checkpoint=CheckpointConfig(every="0.000001s", keep=9))
    assert ranks.run(2, run, config) == ["done", "done"]
    steps = [int(path.name[5:]) for path in list_whole(tmp_path)]
    assert steps[-1] == 7
    assert steps[:-1] == list(range(steps[0], 7, 2))
    assert steps[0] <= 2
    rare = dataclasses.replace(tiny.config(DDP(), tmp_path / "rare", max_steps=7), checkpoint=CheckpointConfig(every="2h"))
    assert ranks.run(2, run, rare) == ["done", "done"]
    assert list_whole(tmp_path / "rare") == [directory(tmp_path / "rare", 7)]
    for key in ("loss", "tokens"):  # the wish goes with the count, and leaves it as it is
        assert [line[key] for line in metrics(tmp_path)] == [line[key] for line in metrics(tmp_path / "rare")]


def stopped(config: Config) -> str:
    """A stop that rank 1 is asked for before the first step, with a save in every step."""
    from trainer.distributed import Place
    from trainer.errors import Stopped
    from trainer.worker import run as work

    rank = int(os.environ["RANK"])
    try:
        work(dataclasses.replace(config, log=LogConfig(progress=False)), Place(rank, 2, 0), [15] if rank == 1 else [])
    except Stopped as error:
        return str(error)
    return "done"


def test_a_stop_waits_for_the_save_under_way(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(FSDP(), tmp_path, max_steps=50), checkpoint=CheckpointConfig(every=1))
    first, second = ranks.run(2, stopped, config)
    newest = list_whole(tmp_path)[-1]
    assert first == second == f"at step {int(newest.name[5:])}, saved in {newest}; run the same command to go on"
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if not (path / "manifest.json").exists()]
