"""Steps that are not finite: skipped on every rank, written down with their samples, and after too many the run goes back or stops."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from tests import ranks, tiny
from tests.disks import small_disk
from tests.test_worker import metrics, run, weights
from tests.tiny import Tiny, Trained
from trainer.bad_steps import BAD_STEPS, BadStep, Start, go_back, keep_lines, note, skipped, stop
from trainer.checkpoint.directory import MANIFEST, directory, list_whole, read_manifest, sealed
from trainer.config import Config
from trainer.errors import RunError
from trainer.order import Order
from trainer.report.summary import summarise
from trainer.sections import CheckpointConfig, OnBadSteps, OptimizerName, Precision
from trainer.state import Position
from trainer.strategies.accelerate import Accelerate
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO1, ZeRO2, ZeRO3
from trainer.strategies.engine import Engine
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

SGD = {"name": OptimizerName.sgd, "momentum": 0.9}
ADAMW: dict[str, Any] = {}


def samples_of(batch: int) -> list[int]:
    """Samples of a batch of 8 among the 64 of `tiny.config`."""
    return Order(64, 0).take(range(8 * (batch - 1), 8 * batch))


def nan_in(*batches: int) -> Tiny:
    """A model to which a sample of each of `batches` is not finite, one that rank 0 of 2 takes."""
    samples = tiny.config(Single()).data.open("train")
    ids = [samples[i]["input_ids"].tolist() for i in range(64)]
    return Tiny(nan_ids=[next(ids[i] for i in samples_of(batch)[:4] if ids.count(ids[i]) == 1) for batch in batches])


def changed(config: Config, **train: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


# -- the step ------------------------------------------------------------------------------------


def state(engine: Engine) -> dict[str, Tensor]:
    """All that a step may move: parameters, optimizer state with its own counts, buffers."""
    found = {name: getattr(value, "full_tensor", lambda value=value: value)().clone() for name, value in engine.state_dict().items()}
    counts = [state["step"] for state in engine.optimizer.state.values() if "step" in state]
    return found | {f"count {i}": torch.as_tensor(count).clone() for i, count in enumerate(counts)}


def train_through(config: Config) -> tuple[list[int], list[list[str]], Trained]:
    """Per step how many were bad up to it, and what of the state moved; then the parameters."""
    from trainer.loop import train_steps

    engine = tiny.make_engine(config)
    loader, bad, moved, losses, norms = tiny.loader(config, 1, 5), [], [], [], []
    before = state(engine)
    for result in train_steps(engine, config.model, loader, config, 1, []):
        values, after = result.read(), state(engine)
        bad.append(values.bad_in_a_row)
        moved.append([name for name in after if name not in before or not torch.equal(before[name], after[name])])
        before = after
        if not values.bad_in_a_row:
            losses.append(values.loss)
            norms.append(values.grad_norm)
    loader.close()
    return bad, moved, Trained(losses, norms, [], tiny.parameters(engine), {})


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "loss": ("loss", {}, {}),
    "gradient": ("gradient", SGD, {}),
    "constant": ("constant", SGD, {}),
    "bf16": ("gradient", {"max_norm": 0.0}, {"precision": Precision.bf16}),
}
"""Name to (kind, optim, train). With buffers under SGD alone: AdamW makes large what rounding leaves of gradients that a mean takes away."""


def train_cases(strategy: Strategy, names: list[str]) -> dict[str, tuple[list[int], list[list[str]], Trained]]:
    """Steps 2 and 3 of 5 are not finite on the last rank alone."""
    world_size = dist.get_world_size()
    forwards, last = 4 // world_size, world_size - 1
    found = {}
    for name in names:
        kind, optim, train = CASES[name]
        model = Tiny(running_mean=optim is SGD, nan_at=f"{last}:{forwards + 1},{2 * forwards + 1}:{kind}")
        found[name] = train_through(tiny.config(strategy, model=model, optim=optim, **{"max_bad_steps": 2, "micro_batch_size": 2, **train}))
    return found


@functools.cache
def one_process() -> dict[str, Trained]:
    (found,) = ranks.run(1, train_cases, Single(), list(CASES))
    return {name: trained for name, (_, _, trained) in found.items()}


@pytest.mark.parametrize(
    ("strategy", "world_size", "names"),
    [
        (Single(), 1, list(CASES)),
        (DDP(), 2, list(CASES)),
        (FSDP(), 1, ["loss"]),
        (FSDP(), 2, ["loss", "constant", "bf16"]),
        pytest.param(HSDP(), 4, ["gradient"], marks=pytest.mark.large),
        (Accelerate(), 2, ["loss"]),
        pytest.param(ZeRO2(cpu_offload=True), 2, ["gradient"], marks=pytest.mark.large),
        (ZeRO3(), 2, ["constant"]),
        *(
            pytest.param(part, size, list(CASES), marks=pytest.mark.large)
            for part in (ZeRO1(), ZeRO2(), ZeRO2(cpu_offload=True), ZeRO3(), ZeRO3(param_persistence_threshold=0))
            for size in (1, 2)
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Strategy) else None,
)
def test_a_bad_step_moves_nothing_and_the_next_is_taken_as_by_one_process(strategy: Strategy, world_size: int, names: list[str]) -> None:
    preload = ["trainer.strategies.deepspeed_engine"] if strategy.name.startswith("zero") else []
    for found in ranks.run(world_size, train_cases, strategy, names, preload=preload):
        for name, (bad, moved, trained) in found.items():
            assert bad == [0, 1, 2, 0, 0], name
            assert moved[1:3] == [[], []], name
            assert all(moved[step] for step in (0, 3, 4)), name
            if name != "bf16":  # which rounds in an order that depends on the number of ranks
                tiny.assert_equal(trained, one_process()[name])


# -- whole runs ----------------------------------------------------------------------------------


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return metrics(run_dir, BAD_STEPS)


def test_a_skipped_step_is_written_down_with_its_samples(tmp_path: Path) -> None:
    config = tiny.config(DDP(), tmp_path, model=nan_in(2, 4), max_bad_steps=1)
    assert ranks.run(2, shown, config) == [
        [f"step {step} is skipped on every rank, the 1st of 1 in a row: the loss is not finite on rank 0; samples "
         f"{', '.join(map(str, samples_of(step)[:6]))}, ... (8 in {tmp_path / BAD_STEPS})" for step in (2, 4)],
        [],
    ]  # fmt: skip
    assert [(line["step"], line["skipped"]) for line in metrics(tmp_path)] == [(1, False), (2, True), (3, False), (4, True), (5, False)]
    assert [line["loss"] is None for line in metrics(tmp_path)] == [False, True, False, True, False]
    tokens = [line["tokens"] for line in metrics(tmp_path)]
    assert tokens[0] == tokens[1] < tokens[2] == tokens[3] < tokens[4]
    assert [(line["step"], line["then"], line["ranks"], line["world_size"], line["samples"]) for line in lines(tmp_path)] == [
        (step, "skipped", [0], 2, samples_of(step)) for step in (2, 4)
    ]
    manifest = read_manifest(directory(tmp_path, 5))
    assert (manifest["step"], manifest["skipped"], manifest["passed_over"]) == (5, 2, [])
    assert summarise(tmp_path).skipped == 2
    assert f">{2:,}<small>loss or gradient norm not finite" in (tmp_path / "report.html").read_text()


def shown(config: Config) -> list[str]:
    """What a run prints on stderr on this rank."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert run(config) == "done"
    return err.getvalue().splitlines()


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_goes_on_bit_equal_after_skipped_steps(optim: dict[str, Any], stop_at: int, tmp_path: Path) -> None:
    """Also when it ended at a skipped step, or before any other."""
    straight = tiny.config(Single(), tmp_path / "a", model=nan_in(1, 3, 4), optim=optim, max_bad_steps=2, max_steps=6)
    parted = dataclasses.replace(straight, run_dir=str(tmp_path / "b"))
    assert ranks.run(1, run_all, [straight, changed(parted, stop_at=stop_at), parted]) == [["done"] * 3]
    one, other = weights(tmp_path / "a", 6), weights(tmp_path / "b", 6)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    keys = ("step", "loss", "tokens", "skipped", "lr")
    assert [[line[key] for key in keys] for line in metrics(tmp_path / "b")] == [[line[key] for key in keys] for line in metrics(tmp_path / "a")]


def run_all(configs: list[Config]) -> list[str]:
    return [run(config) for config in configs]


def test_too_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(FSDP(), tmp_path, model=nan_in(3, 4), max_bad_steps=1), checkpoint=CheckpointConfig(every=1))
    told, other = ranks.run(2, run, config)
    assert told == other
    assert told.startswith(
        "RunError: step 4: the loss is not finite on rank 0. No rank has moved the model in this step, nor in the 1 before it; "
        f"the last good step is 2, and the last good checkpoint is {directory(tmp_path, 2)}. Try a lower optim.lr"
    )
    assert list_whole(tmp_path)[-1] == directory(tmp_path, 2)  # none of a step that moved nothing
    assert [line["then"] for line in lines(tmp_path)] == ["skipped", "stopped"]
    assert [line["skipped"] for line in metrics(tmp_path)] == [False, False, True]


@pytest.mark.parametrize("strategy", [FSDP(), pytest.param(DDP(), marks=pytest.mark.large)], ids=lambda part: part.name)
def test_a_run_that_stops_keeps_its_good_steps(strategy: Strategy, tmp_path: Path) -> None:
    """Step 5 is taken before it is known that 4 was one too many: it has moved nothing of what is saved as of step 2."""
    config = tiny.config(strategy, tmp_path / "stopped", model=nan_in(3, 4), max_bad_steps=1, max_steps=6)
    (told, _) = ranks.run(2, run, config)
    assert f"the last good step is 2, and the last good checkpoint is {directory(tmp_path / 'stopped', 2)}. " in told
    straight = changed(dataclasses.replace(config, run_dir=str(tmp_path / "straight")), stop_at=2)
    assert ranks.run(2, run, straight) == ["done", "done"]
    files = [sorted(directory(tmp_path / name, 2).glob("*.safetensors")) for name in ("stopped", "straight")]
    for one, other in zip(*files, strict=True):
        stopped, expected = load_file(one), load_file(other)
        assert stopped.keys() == expected.keys()
        assert all(torch.equal(stopped[name], expected[name]) for name in stopped)
    positions = [[read_manifest(directory(tmp_path / name, 2))[key] for key in ("step", "tokens", "skipped")] for name in ("stopped", "straight")]
    assert positions[0] == positions[1]


def test_a_stop_amid_bad_steps_is_as_of_the_last_good_one(tmp_path: Path) -> None:
    config = tiny.config(Single(), tmp_path, model=nan_in(1, 2), max_bad_steps=2)
    assert ranks.run(1, stopped_at_once, config) == [f"at step 0, saved in {directory(tmp_path, 0)}; run the same command to go on"]
    assert ranks.run(1, run, config) == ["done"]
    assert [line["skipped"] for line in metrics(tmp_path)] == [True, True, False, False, False]


def stopped_at_once(config: Config) -> str:
    from trainer.distributed import Place
    from trainer.errors import Stopped
    from trainer.worker import run as work

    try:
        work(config, Place(), [1])
    except Stopped as stopped:
        return str(stopped)
    return "done"


ROLLBACK = {"on_bad_steps": OnBadSteps.rollback, "max_steps": 6}


@pytest.mark.parametrize(
    ("strategy", "world_size", "every"),
    [
        (Single(), 1, 0),
        (FSDP(), 2, 2),
        *(pytest.param(part, 2, 2, marks=pytest.mark.large) for part in (DDP(), HSDP(), Accelerate(), ZeRO1(), ZeRO2(), ZeRO3())),
    ],
    ids=lambda value: value.name if isinstance(value, Strategy) else None,
)
def test_goes_back_and_passes_over_the_samples(strategy: Strategy, world_size: int, every: int, tmp_path: Path) -> None:
    """Batches 4 and 5 are bad, and 7 later: what comes out is the run that never had them, and so says its last checkpoint."""
    config = tiny.config(strategy, tmp_path / "run", model=nan_in(4, 5, 7), max_bad_steps=1, **ROLLBACK)
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(every=every, keep=9))
    preload = ["trainer.strategies.deepspeed_engine"] if strategy.name.startswith("zero") else []
    told = ranks.run(world_size, shown, config, preload=preload)
    where = "the last good checkpoint" if every else "the start, as there is no checkpoint yet"
    assert told[0][1:] == [
        f"step 5: the loss is not finite on rank 0; going back to {where}, and passing over the 16 samples of steps 4 to 5",
        told[0][2],
    ]
    assert told[0][2].startswith("step 5 is skipped on every rank, the 1st of 1 in a row")  # batch 7, which is not passed over
    assert [line["skipped"] for line in metrics(tmp_path / "run")] == [False] * 4 + [True, False]
    assert [(line["step"], line["batch"], line["then"]) for line in lines(tmp_path / "run")] == [(4, 4, "skipped"), (5, 5, "gone back"), (5, 7, "skipped")]
    manifest = read_manifest(directory(tmp_path / "run", 6))
    assert (manifest["skipped"], manifest["passed_over"]) == (1, [4, 5])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["passed_over"] == [4, 5]

    never = changed(dataclasses.replace(config, run_dir=str(tmp_path / "never"), model=nan_in(7)), stop_at=2)
    assert ranks.run(world_size, run, never, preload=preload) == ["done"] * world_size
    pass_over(tmp_path / "never", 2, [4, 5])
    assert ranks.run(world_size, run, changed(never, stop_at=None), preload=preload) == ["done"] * world_size
    for key in ("loss", "grad_norm", "tokens", "lr"):
        assert [line[key] for line in metrics(tmp_path / "run")] == [line[key] for line in metrics(tmp_path / "never")]


def pass_over(run_dir: Path, step: int, batches: list[int]) -> None:
    path = directory(run_dir, step) / MANIFEST
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "passed_over": batches})))


def test_what_is_passed_over_stays_so_on_other_ranks(tmp_path: Path) -> None:
    """Resumed behind the place, by other strategies on other ranks."""
    config = tiny.config(Single(), tmp_path / "one", model=nan_in(3), max_bad_steps=0, **ROLLBACK)
    assert ranks.run(1, run, config) == ["done"]
    parts = [(Single(), 1, 4), (FSDP(), 2, 5), (DDP(), 2, 6)]
    for strategy, world_size, stop_at in parts:
        part = changed(dataclasses.replace(config, run_dir=str(tmp_path / "parts"), strategy=strategy), stop_at=stop_at)
        assert ranks.run(world_size, run, part) == ["done"] * world_size
    for key, band in (("loss", 1e-6), ("grad_norm", 1e-5)):
        assert [line[key] for line in metrics(tmp_path / "parts")] == pytest.approx([line[key] for line in metrics(tmp_path / "one")], rel=band)
    assert read_manifest(directory(tmp_path / "parts", 6))["passed_over"] == [3]


def test_going_back_ends_where_samples_are_not_the_cause(tmp_path: Path) -> None:
    config = tiny.config(Single(), tmp_path, model=nan_in(*range(3, 9)), max_bad_steps=0, **ROLLBACK)
    (told,) = ranks.run(1, run, dataclasses.replace(config, checkpoint=CheckpointConfig(every=1)))
    assert told.startswith("RunError: step 3: the loss is not finite on rank 0. After step 2 the run has gone back 3 times, and passed over other samples")
    assert [(line["batch"], line["then"]) for line in lines(tmp_path)] == [(3, "gone back"), (4, "gone back"), (5, "gone back"), (6, "stopped")]


def twice_to_the_end(config: Config) -> list[str]:
    """A run, and again from its last but one checkpoint."""
    first = run(config)
    shutil.rmtree(directory(Path(str(config.run_dir)), 6))
    return [first, run(config)]


def test_why_batches_are_passed_over_is_still_told_by_the_next_start(tmp_path: Path) -> None:
    """Going on from step 4, batches 4 and 5 are passed over, and step 5 is taken again."""
    config = tiny.config(Single(), tmp_path, model=nan_in(4, 5, 7), max_bad_steps=1, **ROLLBACK)
    assert ranks.run(1, twice_to_the_end, dataclasses.replace(config, checkpoint=CheckpointConfig(every=2, keep=9))) == [["done", "done"]]
    assert [(line["step"], line["batch"], line["then"]) for line in lines(tmp_path)] == [(4, 4, "skipped"), (5, 5, "gone back"), (5, 7, "skipped")]


# -- what is said --------------------------------------------------------------------------------


def bad(**changes: Any) -> BadStep:
    return BadStep(
        **{"step": 9, "batch": 9, "loss": 2.5, "grad_norm": float("inf"), "count": 5, "in_a_row": 1, "ranks": [], "world_size": 4, "samples": [3, 1], **changes}
    )


def test_where_it_is_not_finite_is_said(tmp_path: Path) -> None:
    assert bad(count=0, loss=float("nan")).why() == "the global batch has no label that counts"
    assert bad(ranks=[1, 3]).why() == "the loss is not finite on 2 of 4 ranks"
    assert bad().why() == "the gradient norm is inf (the loss is 2.5 and finite on all ranks)"
    assert skipped(bad(in_a_row=2), 3, tmp_path).endswith("; samples 3, 1")
    assert str(stop(bad(count=0), 8, tmp_path)).endswith("Leave such samples out of the data, or give a larger train.global_batch_size")


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096):
        (tmp_path / "disk" / "other").write_bytes(bytes(4096))
        with pytest.raises(RunError, match=rf"^{tmp_path}/disk/{BAD_STEPS}: cannot be written \(No space left on device\); make room"):
            note(bad(), "skipped", tmp_path / "disk")


def test_lines_of_steps_that_are_taken_again_go(tmp_path: Path) -> None:
    path = tmp_path / BAD_STEPS
    keep_lines(tmp_path, Position(7, 0))
    assert not path.exists()
    for step, batch in [(3, 3), (8, 8), (10, 10), (6, 6), (8, 8), (9, 11)]:
        note(bad(step=step, batch=batch), "skipped", tmp_path)
    with path.open("a") as file:
        file.write('{"step": 5, "th')  # a kill
    keep_lines(tmp_path, Position(7, 0, passed_over=(10,)))
    assert [(line["step"], line["samples"]) for line in lines(tmp_path)] == [(3, [3, 1]), (10, [3, 1]), (6, [3, 1])]
    before = path.stat().st_ino
    keep_lines(tmp_path, Position(7, 0, passed_over=(10,)))
    assert path.stat().st_ino == before
    keep_lines(tmp_path, Position(0, 0))
    assert path.read_bytes() == b""


def test_going_back_again_to_the_same_place_is_said() -> None:
    start, message = go_back(bad(in_a_row=2, step=4), [3, 4], 2, Start("auto"), (), "never")
    assert start == Start("never", (3, 4), 2, 1)
    assert message.endswith("; going back to the start, as there is no checkpoint yet, and passing over the 4 samples of steps 3 to 4")
    again, message = go_back(bad(step=3), [5], 2, start, (3, 4), "auto")
    assert again == Start("auto", (3, 4, 5), 2, 2)
    assert message.endswith("going back to the last good checkpoint, and passing over the 2 samples of step 3 (the 2nd time after step 2, with other samples)")
    further, message = go_back(bad(), [11], 8, again, (3, 4, 5), "auto")
    assert (further.times, "time after" in message) == (1, False)
    with pytest.raises(RunError, match="so the samples are not the cause"):
        go_back(bad(), [12], 8, Start("auto", (), 8, 3), (), "auto")
