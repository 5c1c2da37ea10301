"""Whole runs on real ranks: going on where another strategy stopped, a loss that is not finite, evaluation in between."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.__main__ import train
from trainer.checkpoint.directory import directory, finished, list_whole, read_manifest
from trainer.checkpoint.tensors import StoredTensors
from trainer.config import Config
from trainer.drill.outcome import differences
from trainer.order import Order
from trainer.sections import CheckpointConfig, EvalConfig, LogConfig, OptimizerName, Precision, ProfileConfig
from trainer.strategies.accelerate import Accelerate
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

Metrics = list[dict[str, Any]]


def run(config: Config) -> str:
    """Run a worker on this rank; what it ended with."""
    import os

    from trainer.distributed import Place
    from trainer.worker import run as work

    try:
        work(dataclasses.replace(config, log=LogConfig(progress=False)), Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), 0))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def metrics(run_dir: Path, name: str = "metrics.jsonl") -> Metrics:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = directory(run_dir, step).glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps by one process, without a stop: an epoch is 8 steps."""
    run_dir = tmp_path_factory.mktemp("whole")
    assert ranks.run(1, run, tiny.config(Single(), run_dir, model=Tiny(dropout=0.1), micro_batch_size=1, max_steps=12), group=False) == ["done"]
    return run_dir


@pytest.mark.parametrize(
    "parts",
    [
        [(Single(), 1), (DDP(), 2), (FSDP(), 2)],
        [(FSDP(), 4), (HSDP(), 4), (Single(), 1)],
        [(HSDP(), 2), (FSDP(reshard_after_forward=False), 1), (DDP(), 4)],
    ],
    ids=["single-ddp-fsdp", "fsdp-hsdp-single", "hsdp-fsdp-ddp"],
)
def test_goes_on_under_another_strategy_and_number_of_ranks(parts: list[tuple[Strategy, int]], whole: Path, tmp_path: Path) -> None:
    """Stops in the middle of an epoch and behind its end; losses, norms, tokens and rates are as without a stop."""
    base = tiny.config(Single(), tmp_path, model=Tiny(dropout=0.1), micro_batch_size=1, max_steps=12)
    for (strategy, world_size), stop_at in zip(parts, [3, 9, None], strict=True):
        config = dataclasses.replace(base, strategy=strategy, train=dataclasses.replace(base.train, stop_at=stop_at))
        assert ranks.run(world_size, run, config) == ["done"] * world_size
    steps, expected = metrics(tmp_path), metrics(whole)
    assert [line["step"] for line in steps] == list(range(1, 13))
    for key in ("tokens", "lr"):
        assert [line[key] for line in steps] == [line[key] for line in expected]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in steps] == pytest.approx([line[key] for line in expected], rel=1e-5)
    assert read_manifest(list_whole(tmp_path)[-1])["tokens"] == expected[-1]["tokens"]


@pytest.mark.parametrize(
    "optim", [{"name": OptimizerName.sgd, "momentum": 0.9}, {"name": OptimizerName.adam}, {"name": OptimizerName.adafactor}], ids=["sgd", "adam", "adafactor"]
)
def test_optimizer_state_goes_on_bit_equal(optim: dict[str, Any], tmp_path: Path) -> None:
    straight, stopped = tiny.config(Single(), tmp_path / "a", optim=optim), tiny.config(Single(), tmp_path / "b", optim=optim)
    first = dataclasses.replace(stopped, train=dataclasses.replace(stopped.train, stop_at=2))
    for config in (straight, first, stopped):
        assert ranks.run(1, run, config) == ["done"]
    one, other = weights(tmp_path / "a", 5), weights(tmp_path / "b", 5)
    assert one.keys() == other.keys()
    assert any(name.startswith("optim.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def slow(package: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.large, pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"the extra `{package}` is not installed")]


@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [
        pytest.param(Single(), 1, id="single"),
        pytest.param(DDP(), 2, id="ddp"),
        pytest.param(FSDP(), 2, id="fsdp"),
        pytest.param(HSDP(), 4, id="hsdp", marks=pytest.mark.large),
        pytest.param(ZeRO1(), 2, id="zero1", marks=slow("deepspeed")),
        pytest.param(ZeRO2(), 2, id="zero2", marks=slow("deepspeed")),
        pytest.param(ZeRO3(param_persistence_threshold=0), 2, id="zero3", marks=slow("deepspeed")),
        pytest.param(Accelerate(), 2, id="accelerate", marks=slow("accelerate")),
    ],
)
def test_fp32_masters_of_bf16_make_the_round_trip_bit_for_bit(strategy: Strategy, world_size: int, tmp_path: Path) -> None:
    """Stopped and gone on with, a run has the weights and moments of one that was not."""
    straight, stopped = (tiny.config(strategy, tmp_path / name, precision=Precision.bf16) for name in ("straight", "stopped"))
    first = dataclasses.replace(stopped, train=dataclasses.replace(stopped.train, stop_at=2))
    preload = ["trainer.strategies.deepspeed_engine"] if strategy.name.startswith("zero") else []
    for config in (straight, first, stopped):
        assert ranks.run(world_size, run, config, preload=preload) == ["done"] * world_size
    assert {meta.dtype for meta in StoredTensors(directory(tmp_path / "stopped", 2)).metas.values()} == {torch.float32}
    assert differences(directory(tmp_path / "stopped", 5), directory(tmp_path / "straight", 5)) == []


def test_evaluation_in_between_changes_nothing(tmp_path: Path) -> None:
    plain = tiny.config(FSDP(reshard_after_forward=False), tmp_path / "plain", model=Tiny(dropout=0.1))
    often = dataclasses.replace(plain, run_dir=str(tmp_path / "often"), eval=EvalConfig(every=1, batch_size=2), checkpoint=CheckpointConfig(every=2))
    for config in (plain, often):
        assert ranks.run(2, run, config) == ["done", "done"]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in metrics(tmp_path / "often")] == [line[key] for line in metrics(tmp_path / "plain")]
    assert [line["step"] for line in metrics(tmp_path / "often", "evals.jsonl")] == [1, 2, 3, 4, 5]


def test_evaluation_at_the_last_step_without_one_at_the_end(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(Single(), tmp_path, max_steps=4), eval=EvalConfig(every=2, at_end=False))
    assert ranks.run(1, run, config) == ["done"]
    assert [line["step"] for line in metrics(tmp_path, "evals.jsonl")] == [2, 4]


@pytest.mark.parametrize("strategy", [DDP(), FSDP(), HSDP()], ids=["ddp", "fsdp", "hsdp"])
@pytest.mark.parametrize("name", [OptimizerName.adamw, OptimizerName.sgd], ids=["adamw", "sgd"])
def test_a_loss_that_is_not_finite_stops_every_rank_and_keeps_the_last_good_state(strategy: Strategy, name: OptimizerName, tmp_path: Path) -> None:
    """Forward 14 on rank 1 is its third micro-batch of step 4: 4 a step."""
    config = tiny.config(strategy, tmp_path, model=Tiny(nan_at="1:15:loss"), optim={"name": name})
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every=2))
    told = ranks.run(2, run, config)
    samples = Order(64, 0).take(range(24, 32))
    assert (
        told
        == [
            f"RunError: step 4: the loss is not finite on rank 1. No rank has moved the model in this step; the last good step is 3, "
            f"and the last good checkpoint is {directory(tmp_path, 3)}. Try a lower optim.lr, optim.warmup_steps, or look at the samples of this step: "
            f"{', '.join(map(str, samples[:6]))}, ... (8 in {tmp_path / 'bad_steps.jsonl'})"
        ]
        * 2
    )
    assert list_whole(tmp_path) == [directory(tmp_path, 2), directory(tmp_path, 3)]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def test_a_gradient_that_is_not_finite_stops_every_rank(tmp_path: Path) -> None:
    told = ranks.run(2, run, tiny.config(FSDP(), tmp_path, model=Tiny(nan_at="0:5:gradient")))
    assert told[0] == told[1]
    assert told[0].startswith("RunError: step 2: the gradient norm is nan (the loss is 2.")
    assert "finite on all ranks). No rank has moved the model in this step; the last good step is 1, and " in told[0]
    assert f"the last good checkpoint is {directory(tmp_path, 1)}. Try" in told[0]


def after_bad_step(config: Config) -> bool:
    """Whether the weights after a bad step, and two more, are those before it."""
    from trainer.loop import train_steps

    engine = tiny.make_engine(config)
    batches, before, bad = tiny.loader(config, 1, 5), tiny.parameters(engine), []
    for result in train_steps(engine, config.model, batches, config, 1, []):
        bad.append(result.read().bad_in_a_row)
        if not bad[-1]:
            before = tiny.parameters(engine)
    batches.close()
    assert bad == [0, 0, 1, 2, 3]
    return all(torch.equal(value, before[name]) for name, value in tiny.parameters(engine).items())


@pytest.mark.parametrize("strategy", [DDP(), FSDP()], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("optim", [{}, {"name": OptimizerName.sgd, "momentum": 0.9}, {"max_norm": 0.0}], ids=["adamw", "sgd", "no-clip"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_bad_step_and_those_after_it_move_nothing(strategy: Strategy, optim: dict[str, Any], kind: str) -> None:
    config = tiny.config(strategy, model=Tiny(nan_at=f"1:9:{kind}"), optim=optim)
    assert ranks.run(2, after_bad_step, config) == [True, True]


def test_a_finished_run_says_so_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny.config(Single(), tmp_path)
    assert finished(config) is None
    stop = dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=2))
    assert ranks.run(1, run, stop) == ["done"]
    assert finished(config) is None
    told = finished(stop)
    assert told is not None
    assert told.startswith(f"this run has come to train.stop_at=2 (step 2 of 5) in {tmp_path}\n")
    assert f"to train further: leave out train.stop_at, with run_dir={tmp_path}" in told
    assert ranks.run(1, run, config) == ["done"]
    assert finished(config) == (
        f"this run is finished (step 5 of 5) in {tmp_path}\n  its report: {tmp_path}/report.html\n"
        f"  to train further: run_dir={tmp_path} train.max_steps=10\n  to start again: checkpoint.resume=never, or another run_dir="
    )
    capsys.readouterr()
    for local_rank, said in [("1", ""), ("0", f"{finished(config)}\n")]:  # torchrun's: once on each node
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        train(config)
        assert capsys.readouterr().out == said
    assert finished(dataclasses.replace(config, checkpoint=CheckpointConfig(resume="never"))) is None
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=7))
    assert finished(longer) is None
    assert ranks.run(1, run, longer) == ["done"]
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 8))
    (tmp_path / "report.html").unlink()  # ended by a kill before its report: to be run again
    assert finished(longer) is None


def test_to_start_again_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(Single(), tmp_path), checkpoint=CheckpointConfig(every=1, keep=9))
    assert ranks.run(1, run, config) == ["done"]
    again = dataclasses.replace(config, checkpoint=CheckpointConfig(resume="never", every=2), train=dataclasses.replace(config.train, stop_at=2))
    assert ranks.run(1, run, again) == ["done"]
    assert list_whole(tmp_path) == [directory(tmp_path, 2)]
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_going_on_from_the_last_step_of_another_run_saves_it_here(tmp_path: Path) -> None:
    config = tiny.config(Single(), tmp_path / "a")
    assert ranks.run(1, run, config) == ["done"]
    last = directory(tmp_path / "a", 5)
    other = dataclasses.replace(config, run_dir=str(tmp_path / "b"), checkpoint=CheckpointConfig(resume=str(last)))
    assert ranks.run(1, run, other) == ["done"]
    assert list_whole(tmp_path / "b") == [directory(tmp_path / "b", 5)]
    one, here = weights(tmp_path / "a", 5), weights(tmp_path / "b", 5)
    assert one.keys() == here.keys()
    assert all(torch.equal(one[name], here[name]) for name in one)
    (tmp_path / "link").symlink_to(last)
    before = (last / "manifest.json").stat().st_ino
    itself = dataclasses.replace(config, checkpoint=CheckpointConfig(resume=str(tmp_path / "link")))
    assert ranks.run(1, run, itself) == ["done"]  # it is there already: not written a second time
    assert (last / "manifest.json").stat().st_ino == before


def test_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(Single(), tmp_path), checkpoint=CheckpointConfig(every=1, keep=2))
    assert ranks.run(1, run, config) == ["done"]
    assert list_whole(tmp_path) == [directory(tmp_path, 4), directory(tmp_path, 5)]


def test_the_profile_is_of_the_steps_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(Single(), tmp_path), profile=ProfileConfig(steps=[2, 3]))
    assert ranks.run(1, run, config) == ["done"]
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank0-steps-2-3.json.gz"]


def stop_from_outside(config: Config) -> str:
    """A stop that rank 1 alone is asked for, before the first step."""
    import os

    from trainer.distributed import Place
    from trainer.errors import Stopped
    from trainer.worker import run as work

    rank = int(os.environ["RANK"])
    try:
        work(dataclasses.replace(config, log=LogConfig(progress=False)), Place(rank, 2, 0), [1] if rank == 1 else [])
    except Stopped as stopped:
        return str(stopped)
    return "done"


def test_a_stop_that_one_rank_is_asked_for_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    config = tiny.config(FSDP(), tmp_path, max_steps=50)
    first, second = ranks.run(2, stop_from_outside, config)
    (path,) = list_whole(tmp_path)
    assert first == second == f"at step {int(path.name[5:])}, saved in {path}; run the same command to go on"
    assert len(metrics(tmp_path)) == int(path.name[5:]) < 5
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


ASKED: list[int] = []


@dataclass(kw_only=True)
class StoppedInEvaluation(Tiny):
    """Rank 1 alone is asked to stop in the second batch of the evaluation after the first `after` ones."""

    after: int = 0

    def identity(self) -> dict[str, Any]:
        return Tiny().identity()

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        global evaluated
        evaluated += 1
        if dist.get_rank() == 1 and evaluated == self.after + 2:
            ASKED.append(1)
        return super().metrics(module, batch)


evaluated = 0


def work(config: Config) -> str:
    import os

    from trainer import loop
    from trainer.distributed import Place
    from trainer.errors import Stopped
    from trainer.worker import run as work

    loop.CHECK_SECONDS = 0  # ask after every batch
    try:
        work(dataclasses.replace(config, log=LogConfig(progress=False)), Place(int(os.environ["RANK"]), 2, 0), ASKED)
    except Stopped as stopped:
        return str(stopped)
    return "done"


@pytest.mark.parametrize("strategy", [DDP(), FSDP()], ids=["ddp", "fsdp"])
def test_a_stop_gives_an_evaluation_up_and_the_next_start_makes_it(strategy: Strategy, tmp_path: Path) -> None:
    """The one of step 4 of 5, and then the last; in batches of 1 of 11 samples, 6 a rank."""
    config = dataclasses.replace(tiny.config(strategy, tmp_path), eval=EvalConfig(every=2, batch_size=1))
    first = dataclasses.replace(config, model=StoppedInEvaluation(after=6))
    assert ranks.run(2, work, first) == [f"at step 4, saved in {directory(tmp_path, 4)}; run the same command to go on"] * 2
    assert [line["step"] for line in metrics(tmp_path, "evals.jsonl")] == [2]
    last = dataclasses.replace(config, model=StoppedInEvaluation(after=6))
    told = f"at step 5, saved in {directory(tmp_path, 5)}, before its last evaluation; run the same command to go on"
    assert ranks.run(2, work, last) == [told] * 2
    assert [line["step"] for line in metrics(tmp_path, "evals.jsonl")] == [2, 4]
    assert finished(config) is None
    assert ranks.run(2, run, config) == ["done", "done"]
    assert [line["step"] for line in metrics(tmp_path, "evals.jsonl")] == [2, 4, 5]
    assert len(metrics(tmp_path)) == 5
