"""From a step's results on the device to what callbacks are told, one step late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from trainer import config as configs
from trainer.bad_steps import BadStep, RollBack, Start, go_back, note, skipped, stop
from trainer.callbacks.watchers import Watchers
from trainer.checkpoint.directory import last_step
from trainer.config import Config
from trainer.data.base import Samples
from trainer.errors import RunError
from trainer.flops import peak_flops
from trainer.loop import Mark, StepResult, StepValues, ranks_with_bad_loss
from trainer.memory import peak_bytes
from trainer.order import Order, batch_of
from trainer.sections import OnBadSteps
from trainer.state import Position, RunInfo, StepInfo
from trainer.strategies.engine import Engine
from trainer.whereabouts import Whereabouts

MEMORY_SECONDS = 0.2  # between two looks at the peak of memory, which only rises: a look takes as long as ten small operations


@dataclass
class Progress:
    """How far this process has come, in steps whose results have been read."""

    position: Position
    mark: Mark
    order: Order
    start: Start
    resume: str = "never"
    """Where the last good checkpoint is, as `checkpoint.resume`."""
    where: Whereabouts = field(default_factory=Whereabouts)
    good: Position = field(init=False)
    """As of the last step that moved the model: what the model holds now."""
    train_loss: float = float("nan")
    metrics: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    """Peak bytes, as of `memory_time`."""
    memory_time: float = -math.inf

    def __post_init__(self) -> None:
        self.good = self.position


def run_info(
    config: Config,
    run_dir: Path,
    samples: Samples,
    engine: Engine,
    position: Position,
    found: Path | None,
    *,
    taken_before: int = 0,
    anew: bool = False,
    began: float | None = None,
) -> RunInfo:
    """What callbacks are told before the first step; `found` is the checkpoint that was resumed, `began` now where it is not known."""
    assert config.strategy is not None
    flops, formula = engine.flops
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu"
    peak, source = peak_flops(name, config.train.precision.name)
    ranks = dist.get_world_size()
    return RunInfo(
        run_dir=run_dir,
        config=configs.to_plain(config),
        strategy=config.strategy.name,
        world_size=ranks,
        device=name,
        model=config.model.title(),
        parameters=engine.numel(),
        first_step=position.step + 1,
        max_steps=config.train.max_steps,
        last_step=last_step(config),
        flops_per_token=flops,
        flops_formula=formula,
        peak_flops=peak * ranks,
        peak_source=source,
        data=samples.describe(),
        resumed_from=str(found) if found else None,
        passed_over=position.passed_over,
        taken_before=taken_before,
        anew=anew,
        began=time.time() if began is None else began,
    )


def record(result: StepResult, config: Config, progress: Progress, info: RunInfo, watchers: Watchers, settle: Callable[[], None]) -> StepValues:
    """Read a step's results and pass them on; `settle` is called after too many bad steps, before the last checkpoint is looked for.

    Raises:
        RunError: more steps in a row than `train.max_bad_steps` had a loss or gradient norm that was not finite.
        RollBack: so it was, and the run is to go back.
    """
    values = result.read()
    before = progress.position
    if values.bad_in_a_row:
        _judge(result, values, config, progress, info, settle)
        progress.position = Position(result.step, before.tokens, before.skipped + 1, before.passed_over)
    else:
        progress.position = progress.good = Position(result.step, before.tokens + values.count, before.skipped, before.passed_over)
        progress.train_loss = values.loss
    seconds, progress.mark = result.mark.since(progress.mark), result.mark
    if watchers:
        rate = values.count / seconds
        if (now := time.monotonic()) - progress.memory_time >= MEMORY_SECONDS:
            progress.memory, progress.memory_time = peak_bytes("cpu" if info.device == "cpu" else "cuda"), now
        step_info = StepInfo(
            step=result.step,
            loss=values.loss,
            grad_norm=values.grad_norm,
            lr=result.lr,
            tokens=progress.position.tokens,
            step_seconds=seconds,
            data_seconds=result.data_seconds,
            tokens_per_second=rate,
            mfu=info.flops_per_token * rate / info.peak_flops,
            memory_bytes=progress.memory,
            skipped=values.bad_in_a_row > 0,
            exchange_seconds=result.exchange_seconds,
        )
        watchers.on_step(step_info)
    return values


def _judge(result: StepResult, values: StepValues, config: Config, progress: Progress, info: RunInfo, settle: Callable[[], None]) -> None:
    """Say and write down what was not finite in a step; raises when there were too many in a row. A collective."""
    ranks = [] if math.isfinite(values.loss) or values.count == 0 else ranks_with_bad_loss(result)
    train, passed_over, last_good = config.train, progress.position.passed_over, progress.good.step
    batch = batch_of(result.step, passed_over)
    end = batch * train.global_batch_size
    samples = progress.order.take(range(end - train.global_batch_size, end))
    bad = BadStep(result.step, batch, values.loss, values.grad_norm, values.count, values.bad_in_a_row, ranks, info.world_size, samples)

    def tell(then: str, message: str | None = None) -> None:
        if dist.get_rank() == 0:
            note(bad, then, info.run_dir, message)

    if values.bad_in_a_row <= train.max_bad_steps:
        tell("skipped", skipped(bad, train.max_bad_steps, info.run_dir))
        return
    settle()
    if train.on_bad_steps is OnBadSteps.stop:
        tell("stopped")
        raise stop(bad, last_good, info.run_dir)
    row = [batch_of(step, passed_over) for step in range(last_good + 1, result.step + 1)]
    try:
        start, message = go_back(bad, row, last_good, progress.start, passed_over, progress.resume)
    except RunError:
        tell("stopped")
        raise
    tell("gone back", message)
    raise RollBack(start)
