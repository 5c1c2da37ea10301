"""When checkpoints are written: beside training from a copy, after a time, and before a stop."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.util
import io
import os
import resource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests import ranks, tiny
from tests.test_worker import metrics, run
from tests.tiny import Tiny
from trainer.checkpoint.directory import directory, list_whole
from trainer.checkpoint.saver import HostCopy, Saver
from trainer.config import Config
from trainer.sections import CheckpointConfig, LogConfig
from trainer.state import Position
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO3
from trainer.strategies.engine import Engine
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single


def copied(config: Config) -> tuple[bool, bool]:
    """(the state made of a copy is that of when it was taken, while training goes on; the next copy is in the same memory)."""
    from trainer.loop import train_steps

    def local(value: torch.Tensor) -> torch.Tensor:
        return value.to_local() if hasattr(value, "to_local") else value  # type: ignore[operator]

    engine = tiny.make_engine(config)
    loader = tiny.loader(config, 1, 3)
    steps = train_steps(engine, config.model, loader, config, 1, [])
    next(steps)
    host, group = HostCopy(engine.device), dist.new_group(backend="gloo")
    before = {name: local(value).clone() for name, value in engine.state_dict().items()}
    copy = host.take(engine.held())
    where = {name: local(value).data_ptr() for name, value in copy.items()}
    next(steps)
    now = engine.state_dict()
    moved = any(not torch.equal(local(now[name]), value) for name, value in before.items())
    then = engine.state_of(copy, group)
    holds = moved and list(then) == list(before) and all(torch.equal(local(then[name]), value) for name, value in before.items())
    again = host.take(engine.held())
    loader.close()
    return holds, where == {name: local(value).data_ptr() for name, value in again.items()}


NEEDS_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed")
ZEROS = [pytest.param(ZeRO1(), marks=NEEDS_DEEPSPEED), pytest.param(ZeRO3(param_persistence_threshold=0), marks=NEEDS_DEEPSPEED)]


@pytest.mark.parametrize("strategy", [DDP(), FSDP(), *ZEROS], ids=["ddp", "fsdp", "zero1", "zero3"])
def test_the_copy_holds_while_training_goes_on(strategy: Strategy) -> None:
    preload = ["trainer.strategies.deepspeed_engine"] if "zero" in strategy.name else []
    assert ranks.run(2, copied, tiny.config(strategy), preload=preload) == [(True, True)] * 2


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


def saver_of(config: Config, engine: Engine) -> Saver:
    return Saver(engine, Path(str(config.run_dir)), config.checkpoint, tiny.facts(config), -1, lambda step, path: None)


def memory_of(config: Config) -> tuple[str, int, int, int, int, int]:
    """(what is said of memory, bytes kept, bytes made, bytes held, bytes of the parameters' rows, bytes of the optimizer's): all but the first of this rank."""
    engine = tiny.make_engine(config)
    engine.init_optimizer_state(1)
    saver = saver_of(config, engine)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        saver.save(Position(1, 10))
        saver.close()
    state = engine.state_dict()

    def size(of: dict[str, torch.Tensor], kind: str = "") -> int:
        return sum(getattr(value, "_local_tensor", value).nbytes for name, value in of.items() if name.startswith(kind))

    return out.getvalue(), saver.kept_bytes, saver.made_bytes, size(engine.held()), size(state, "model."), size(state, "optim.")


@pytest.mark.parametrize(
    ("strategy", "made_of"),
    [
        (DDP(), ()),
        (FSDP(), ()),
        pytest.param(ZeRO1(), ("optimizer",), marks=[pytest.mark.large, NEEDS_DEEPSPEED]),
        pytest.param(ZeRO3(param_persistence_threshold=0), ("parameters", "optimizer"), marks=NEEDS_DEEPSPEED),
    ],
    ids=["ddp", "fsdp", "zero1", "zero3"],
)
def test_the_memory_of_a_save_is_said_with_what_is_made_while_it_is_written(strategy: Strategy, made_of: tuple[str, ...], tmp_path: Path) -> None:
    preload = ["trainer.strategies.deepspeed_engine"] if made_of else []
    for rank, (told, kept, made, held, parameters, optimizer) in enumerate(ranks.run(2, memory_of, tiny.config(strategy, tmp_path), preload=preload)):
        assert kept == held > 0
        assert made == sum({"parameters": parameters, "optimizer": optimizer}[kind] for kind in made_of)
        more = ", and 0 MB while it is written" if made_of else ""
        assert told == ("" if rank else f"memory    checkpoint.overlap keeps a copy of the state: 0 MB on each rank{more}\n")


def short_of_memory(config: Config) -> tuple[str, int]:
    """(the error of a save for whose copy there is no memory, the newest saved step after another with memory)."""
    engine = tiny.make_engine(config)
    engine.init_optimizer_state(1)
    saver, told = saver_of(config, engine), "no error"
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, most))
    try:
        saver.save(Position(1, 10))
    except RuntimeError as error:
        told = str(error)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    saver.save(Position(2, 20))  # waits for the one before, if it is under way
    saver.close()
    saver.wait()
    return told, saver.saved


def test_nothing_is_under_way_after_an_error_before_the_write(tmp_path: Path) -> None:
    ((told, saved),) = ranks.run(1, short_of_memory, tiny.config(Single(), tmp_path, model=Tiny(dim=512)), timeout=30)
    assert "can't allocate memory" in told
    assert saved == 2
    assert list_whole(tmp_path) == [directory(tmp_path, 2)]


def files_open(config: Config) -> list[int]:
    """How many files and connections this process has open, each time that a saver has been made, used and closed."""
    engine, found = tiny.make_engine(config), []
    for time in range(4):
        saver = saver_of(config, engine)
        saver.save(Position(time, time))
        saver.close()
        del saver
        gc.collect()
        found.append(len(os.listdir("/proc/self/fd")))
    return found


def test_a_saver_leaves_no_connection_open(tmp_path: Path) -> None:
    """A run makes one each time that it goes back."""
    for found in ranks.run(2, files_open, tiny.config(DDP(), tmp_path)):
        assert len(set(found[1:])) == 1, found
    assert list_whole(tmp_path)[-1] == directory(tmp_path, 3)


def on_the_second_gpu(config: Config) -> tuple[bool, bool]:
    """(this process uses the second GPU, and the first)."""
    from trainer.worker import build_engine

    device = torch.device("cuda", 1)
    torch.cuda.set_device(device)
    torch.cuda.init()
    mesh = config.strategy.mesh(dist.get_world_size(), device.type)
    saver = saver_of(config, build_engine(config, config.data.open("train"), device, mesh))
    saver.save(Position(0, 0))
    saver.close()
    return torch._C._cuda_hasPrimaryContext(1), torch._C._cuda_hasPrimaryContext(0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")
def test_a_save_beside_training_uses_no_gpu_of_another_rank(tmp_path: Path) -> None:
    assert ranks.run(1, on_the_second_gpu, tiny.config(Single(), tmp_path)) == [(True, False)]
    assert list_whole(tmp_path) == [directory(tmp_path, 0)]
