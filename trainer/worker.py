"""What each rank runs: set up, resume, train, evaluate, save, take down."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import trainer
from trainer import callbacks as callback_parts
from trainer import checkpoint, distributed, precision
from trainer import config as configs
from trainer.callbacks.profile import Profile
from trainer.config import Config
from trainer.data.base import Samples
from trainer.distributed import Place
from trainer.errors import RunError, Stopped
from trainer.flops import peak_flops
from trainer.loader import Loader
from trainer.loop import Mark, StepResult, StepValues, evaluate, train_steps
from trainer.materialise import blueprint
from trainer.memory import peak_bytes
from trainer.state import Callback, RunInfo, StepInfo
from trainer.strategies.engine import Engine


@dataclass
class Progress:
    """How far this process has come, in steps whose results have been read."""

    position: checkpoint.Position
    mark: Mark
    train_loss: float = float("nan")
    metrics: dict[str, float] = field(default_factory=dict)


def run(config: Config, place: Place, asked: list[int] | None = None) -> None:
    """Train as `config` says, as one rank of `place.world_size`.

    `asked` becomes non-empty when somebody other than this process's signals asks for a stop (Ray).

    Raises:
        ConfigError: what could only be found out here (the data, the model, the checkpoint).
        RunError: a loss that is not finite, for one.
        Stopped: asked to stop by a signal, or `train.stop_at` was reached; a checkpoint is written.
    """
    assert config.run_dir is not None
    with ExitStack() as stack:
        stop_asked = stack.enter_context(_signals([] if asked is None else asked))
        device = distributed.pick_device(config.train.device.name, place.local_rank)
        torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
        distributed.init(place, device)
        stack.callback(distributed.close)
        _train(config, Path(config.run_dir), device, stop_asked, stack)


@contextmanager
def _signals(asked: list[int]) -> Iterator[list[int]]:
    """SIGTERM, and SIGINT once, ask for a stop that all ranks agree on; SIGINT twice is at once."""

    def ask(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread (a Ray worker): whoever owns the process handles signals
        old = {}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def build_engine(config: Config, samples: Samples, device: torch.device) -> Engine:
    """The model of `config` under its strategy, with fresh values."""
    assert config.strategy is not None
    mesh = config.strategy.mesh(dist.get_world_size(), device.type)
    plan = blueprint(config.model, samples.spec, config.train.seed, device, precision.param_dtype(config.train.precision))
    return config.strategy.setup(plan, config, mesh)


def _train(config: Config, run_dir: Path, device: torch.device, stop_asked: list[int], stack: ExitStack) -> None:
    train = config.train
    samples, held_out = config.data.open("train"), config.data.open("eval")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    engine = build_engine(config, samples, device)
    found = checkpoint.find(run_dir, config.checkpoint.resume)
    position = checkpoint.Position(0, 0)
    if found is not None:
        position = checkpoint.load(engine, found)
    last = min(train.stop_at or train.max_steps, train.max_steps)
    progress = Progress(position, Mark(device))
    loader = Loader(
        samples,
        config.model,
        seed=train.seed,
        global_batch=train.global_batch_size,
        micro_batch=train.micro_batch_size,
        rank=rank,
        ranks=ranks,
        device=device,
        steps=range(position.step + 1, last + 1),
        prefetch=config.loader.prefetch,
        workers=config.loader.workers,
    )
    stack.callback(loader.close)
    watchers: list[Callback] = []
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        configs.save(config, run_dir / "config.yaml")
        watchers = callback_parts.make(config, run_dir)
        for watcher in reversed(watchers):
            stack.callback(watcher.close)
    info = _run_info(config, run_dir, samples, engine, position, last, found)
    for watcher in watchers:
        watcher.on_start(info)
    saved = position.step if found is not None else -1
    progress.mark = Mark(device)
    pending: StepResult | None = None
    stopping = False
    profile = Profile(run_dir, config.profile.steps, rank)
    stack.callback(profile.close)
    for result in profile.around(train_steps(engine, config.model, loader, config, position.step + 1, stop_asked), position.step + 1):
        if pending is not None:
            stopping = _record(pending, progress, info, watchers) or stopping
        pending = result
        due_eval = config.eval.every and result.step % config.eval.every == 0 and result.step != last
        due_save = config.checkpoint.every and result.step % config.checkpoint.every == 0
        if due_eval or due_save or stopping:
            stopping = _record(pending, progress, info, watchers) or stopping
            pending = None
        if due_eval:
            _evaluate(engine, config, held_out, result.step, watchers, progress)
        if due_save or stopping:
            _save(engine, config, run_dir, progress.position, info, watchers)
            saved = result.step
        if pending is None:
            progress.mark = Mark(device)
        if stopping:
            break
    if pending is not None:
        _record(pending, progress, info, watchers)
    step = progress.position.step
    if saved != step:
        _save(engine, config, run_dir, progress.position, info, watchers)
    if stopping and step < last:
        _finish(watchers, "stopped", {})
        raise Stopped(f"at step {step}, saved in {checkpoint.directory(run_dir, step)}; run the same command to go on")
    if config.eval.at_end:
        _evaluate(engine, config, held_out, step, watchers, progress)
    facts: dict[str, Any] = {"train_loss": progress.train_loss, "eval": progress.metrics}
    with torch.no_grad():
        engine.model.eval()
        facts["sample"] = config.model.sample(engine.model, samples, device)
    status = "finished" if step >= train.max_steps else "stopped"
    _finish(watchers, status, facts)


def _run_info(config: Config, run_dir: Path, samples: Samples, engine: Engine, position: checkpoint.Position, last: int, found: Path | None) -> RunInfo:
    assert config.strategy is not None
    flops, formula = config.model.flops(engine.module, samples.spec)
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu"
    peak, source = peak_flops(name, config.train.precision.name)
    ranks = dist.get_world_size()
    return RunInfo(
        run_dir=run_dir,
        config=configs.to_plain(config),
        strategy=config.strategy.name,
        world_size=ranks,
        device=name,
        parameters=engine.numel(),
        first_step=position.step + 1,
        max_steps=config.train.max_steps,
        last_step=last,
        flops_per_token=flops,
        flops_formula=formula,
        peak_flops=peak * ranks,
        peak_source=source,
        data=samples.describe(),
        resumed_from=str(found) if found else None,
    )


def _record(result: StepResult, progress: Progress, info: RunInfo, watchers: list[Callback]) -> bool:
    """Read a step's results and pass them on; returns whether some rank was asked to stop.

    Raises:
        RunError: the loss or gradient norm was not finite: no rank has moved the model since.
    """
    values = result.read()
    if values.bad:
        raise RunError(_bad_step(result, values, progress, info))
    seconds, progress.mark = result.mark.since(progress.mark), result.mark
    progress.position = checkpoint.Position(result.step, progress.position.tokens + values.count)
    progress.train_loss = values.loss
    if watchers:
        device_type = "cpu" if info.device == "cpu" else "cuda"
        rate = values.count / seconds
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
            memory_bytes=peak_bytes(device_type),
        )
        for watcher in watchers:
            watcher.on_step(step_info)
    return values.stop


def _bad_step(result: StepResult, values: StepValues, progress: Progress, info: RunInfo) -> str:
    if values.bad_ranks == 1:
        where = f"the loss is not finite on rank {values.bad_rank_sum}"
    elif values.bad_ranks:
        where = f"the loss is not finite on {values.bad_ranks} of {info.world_size} ranks"
    else:
        where = f"the gradient norm is {values.grad_norm} (the loss is {values.loss:.6g} and finite on all ranks)"
    whole = checkpoint.list_whole(info.run_dir)
    kept = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
    return (
        f"step {result.step}: {where}. No rank has moved the model in this step; the last good step is {progress.position.step}, and {kept}. "
        "Try a lower optim.lr, optim.warmup_steps, or look at the samples of this step"
    )


def _evaluate(engine: Engine, config: Config, held_out: Samples, step: int, watchers: list[Callback], progress: Progress) -> None:
    progress.metrics = evaluate(engine, config.model, held_out, config.eval.batch_size)
    for watcher in watchers:
        watcher.on_eval(step, progress.metrics)


def _save(engine: Engine, config: Config, run_dir: Path, position: checkpoint.Position, info: RunInfo, watchers: list[Callback]) -> None:
    facts = {
        "strategy": info.strategy,
        "world_size": info.world_size,
        "versions": {"trainer": trainer.__version__, "torch": torch.__version__},
        "data_fingerprint": info.data.get("fingerprint"),
        "config": info.config,
    }
    path = checkpoint.save(engine, position, run_dir, facts)
    if dist.get_rank() == 0:
        checkpoint.remove_old(run_dir, config.checkpoint.keep)
    for watcher in watchers:
        watcher.on_checkpoint(position.step, path)


def _finish(watchers: list[Callback], status: str, facts: dict[str, Any]) -> None:
    for watcher in watchers:
        watcher.on_finish(status, facts)
