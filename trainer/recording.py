"""From a step's results on the device to what callbacks are told, one step late."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from trainer import config as configs
from trainer.checkpoint.directory import last_step, list_whole
from trainer.config import Config
from trainer.data.base import Samples
from trainer.errors import RunError
from trainer.flops import peak_flops
from trainer.loop import Mark, StepResult, StepValues, ranks_with_bad_loss
from trainer.memory import peak_bytes
from trainer.state import Callback, Position, RunInfo, StepInfo
from trainer.strategies.engine import Engine
from trainer.whereabouts import Whereabouts

MEMORY_SECONDS = 0.2  # between two looks at the peak of memory, which only rises: a look takes as long as ten small operations


@dataclass
class Progress:
    """How far this process has come, in steps whose results have been read."""

    position: Position
    mark: Mark
    saved: int
    """The step of the last checkpoint; 0: none."""
    where: Whereabouts = field(default_factory=Whereabouts)
    train_loss: float = float("nan")
    metrics: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    """Peak bytes, as of `memory_time`."""
    memory_time: float = -math.inf


def run_info(config: Config, run_dir: Path, samples: Samples, engine: Engine, position: Position, found: Path | None, taken_before: int = 0) -> RunInfo:
    """What callbacks are told before the first step; `found` is the checkpoint that was resumed."""
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
        taken_before=taken_before,
    )


def record(result: StepResult, progress: Progress, info: RunInfo, watchers: list[Callback]) -> bool:
    """Read a step's results and pass them on; returns whether some rank was asked to stop.

    Raises:
        RunError: the loss or gradient norm was not finite: no rank has moved the model since.
    """
    values = result.read()
    if values.bad:
        bad_ranks = [] if math.isfinite(values.loss) or values.count == 0 else ranks_with_bad_loss(result)
        raise RunError(bad_step(result.step, values, bad_ranks, progress.position.step, info))
    seconds, progress.mark = result.mark.since(progress.mark), result.mark
    progress.position = Position(result.step, progress.position.tokens + values.count)
    progress.train_loss = values.loss
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
            exchange_seconds=result.exchange_seconds,
        )
        for watcher in watchers:
            watcher.on_step(step_info)
    return values.stop


def bad_step(step: int, values: StepValues, bad_ranks: list[int], last_good: int, info: RunInfo) -> str:
    """Why `step` was not taken, where, and what is left."""
    advice = "Try a lower optim.lr, optim.warmup_steps, or look at the samples of this step"
    if values.count == 0:
        where, advice = "the global batch has no label that counts", "Leave such samples out of the data, or give a larger train.global_batch_size"
    elif len(bad_ranks) == 1:
        where = f"the loss is not finite on rank {bad_ranks[0]}"
    elif bad_ranks:
        where = f"the loss is not finite on {len(bad_ranks)} of {info.world_size} ranks"
    else:
        where = f"the gradient norm is {values.grad_norm} (the loss is {values.loss:.6g} and finite on all ranks)"
    whole = list_whole(info.run_dir)
    kept = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
    return f"step {step}: {where}. No rank has moved the model in this step; the last good step is {last_good}, and {kept}. {advice}"
