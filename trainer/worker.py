"""What each rank runs: set up, resume, train, evaluate, save, take down."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import trainer
from trainer import callbacks as callback_parts
from trainer import config as configs
from trainer import distributed, precision
from trainer.callbacks.profile import Profile
from trainer.checkpoint.directory import directory, find, last_step, remove_after, remove_old
from trainer.checkpoint.load import load
from trainer.checkpoint.save import save
from trainer.config import Config
from trainer.data.base import Samples
from trainer.distributed import Place
from trainer.doctor.recorder import recorded
from trainer.doctor.watch import Watch
from trainer.errors import RunError, Stopped
from trainer.launchers.ranks import tell_failure
from trainer.loader import Loader
from trainer.loop import Mark, StepResult, evaluate, train_steps
from trainer.materialise import blueprint
from trainer.recording import Progress, record, run_info
from trainer.state import Callback, Position, RunInfo
from trainer.strategies.engine import Engine
from trainer.whereabouts import Phase, Whereabouts


def run(config: Config, place: Place, asked: list[int] | None = None, tell: Callable[[int, RunError], None] = tell_failure) -> None:
    """Train as `config` says, as one rank of `place.world_size`.

    `asked` becomes non-empty when somebody other than this process's signals asks for a stop (Ray).
    `tell(rank, error)` passes on why this process ends where an exception cannot: its training thread stands still.

    Raises:
        ConfigError: what could only be found out here (the data, the model, the checkpoint).
        RunError: a loss that is not finite, for one.
        Stopped: asked to stop by a signal; a checkpoint is written.
    """
    assert config.run_dir is not None
    run_dir = Path(config.run_dir)
    watch = Watch(run_dir, place.rank, config.run.stall_timeout, tell)
    with recorded(run_dir, place.rank, place.world_size, watch) as where, ExitStack() as stack:
        stop_asked = stack.enter_context(_signals([] if asked is None else asked))
        device = distributed.pick_device(config.train.device.name, place.local_rank)
        distributed.make_deterministic(config.train.deterministic and device.type == "cuda")
        distributed.init(place, device)
        stack.callback(distributed.close)
        _train(config, run_dir, device, stop_asked, where, stack)


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
    flops = config.model.flops(plan.module, samples.spec)  # before parameters are cut: zero3 leaves them without elements
    engine = config.strategy.setup(plan, config, mesh)
    engine.flops = flops
    return engine


def _train(config: Config, run_dir: Path, device: torch.device, stop_asked: list[int], where: Whereabouts, stack: ExitStack) -> None:
    samples, held_out = config.data.open("train"), config.data.open("eval")
    rank, last = dist.get_rank(), last_step(config)
    engine = build_engine(config, samples, device)
    found = _find(run_dir, config.checkpoint.resume)
    facts = _facts(config, samples)
    position = Position(0, 0) if found is None else load(engine, found, facts)
    loader = make_loader(config, samples, device, range(position.step + 1, last + 1), where)
    stack.callback(loader.close)
    watchers: list[Callback] = []
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_after(run_dir, position.step)
        configs.save(config, run_dir / "config.yaml")
        watchers = callback_parts.make(config, run_dir)
        for watcher in reversed(watchers):
            stack.callback(watcher.close)
    info = run_info(config, run_dir, samples, engine, position, found, where.before)
    for watcher in watchers:
        watcher.on_start(info)
    progress = Progress(position, Mark(device), saved=position.step, where=where)
    where.step = position.step
    profile = Profile(run_dir, config.profile.steps, rank)
    stack.callback(profile.close)
    steps = profile.around(train_steps(engine, config.model, loader, config, position.step + 1, stop_asked), position.step + 1)
    stopped = consume(steps, engine, config, held_out, facts, progress, info, watchers)
    where.phase = Phase.END
    step = progress.position.step
    if progress.saved != step:
        _save(engine, config, facts, progress, info, watchers)
    if stopped and step < last:
        _finish(watchers, "stopped", {})
        raise Stopped(f"at step {step}, saved in {directory(run_dir, step)}; run the same command to go on")
    if config.eval.at_end:
        _evaluate(engine, config, held_out, step, watchers, progress)
    told: dict[str, Any] = {"train_loss": progress.train_loss, "eval": progress.metrics}
    with torch.no_grad():
        engine.model.eval()
        told["sample"] = config.model.sample(engine.model, samples, device)
    _finish(watchers, "finished" if step >= config.train.max_steps else "stopped", told)


def _find(run_dir: Path, resume: str) -> Path | None:
    """Rank 0's answer for all: another node may not see the same files yet."""
    found = [find(run_dir, resume)] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(found)
    return found[0]


def make_loader(config: Config, samples: Samples, device: torch.device, steps: range, where: Whereabouts | None = None) -> Loader:
    """This rank's batches of `steps`."""
    return Loader(
        samples,
        config.model,
        seed=config.train.seed,
        global_batch=config.train.global_batch_size,
        micro_batch=config.train.micro_batch_size,
        rank=dist.get_rank(),
        ranks=dist.get_world_size(),
        device=device,
        steps=steps,
        prefetch=config.loader.prefetch,
        workers=config.loader.workers,
        where=where,
    )


def consume(
    steps: Iterator[StepResult],
    engine: Engine,
    config: Config,
    held_out: Samples,
    facts: dict[str, Any],
    progress: Progress,
    info: RunInfo,
    watchers: list[Callback],
) -> bool:
    """Take the steps: record each one step late, evaluate and save where it is due; returns whether a stop was asked for."""
    pending: StepResult | None = None
    stopping = False
    progress.mark = Mark(engine.device)
    for result in steps:
        if pending is not None:
            stopping = record(pending, progress, info, watchers) or stopping
        pending = result
        due_eval = _due(config.eval.every, result.step) and not (config.eval.at_end and result.step == info.last_step)
        due_save = _due(config.checkpoint.every, result.step)
        if due_eval or due_save or stopping:  # these need the step's own results
            stopping = record(result, progress, info, watchers) or stopping
            pending = None
            if due_eval:
                _evaluate(engine, config, held_out, result.step, watchers, progress)
            if due_save:
                _save(engine, config, facts, progress, info, watchers)
            progress.mark = Mark(engine.device)
        if stopping:
            break
    if pending is not None:
        stopping = record(pending, progress, info, watchers) or stopping
    return stopping


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(engine: Engine, config: Config, held_out: Samples, step: int, watchers: list[Callback], progress: Progress) -> None:
    with progress.where.during(Phase.EVALUATION):
        progress.metrics = evaluate(engine, config.model, held_out, config.eval.batch_size, progress.where)
    for watcher in watchers:
        watcher.on_eval(step, progress.metrics)


def _facts(config: Config, samples: Samples) -> dict[str, Any]:
    """What a checkpoint's manifest says beside its position."""
    assert config.strategy is not None
    return {
        "strategy": config.strategy.name,
        "world_size": dist.get_world_size(),
        "versions": {"trainer": trainer.__version__, "torch": torch.__version__},
        "data_fingerprint": samples.fingerprint,
        "config": configs.to_plain(config),
    }


def _save(engine: Engine, config: Config, facts: dict[str, Any], progress: Progress, info: RunInfo, watchers: list[Callback]) -> None:
    with progress.where.during(Phase.SAVE):
        path = save(engine, progress.position, info.run_dir, facts)
        progress.saved = progress.position.step
        if dist.get_rank() == 0:
            remove_old(info.run_dir, config.checkpoint.keep)
    for watcher in watchers:
        watcher.on_checkpoint(progress.position.step, path)


def _finish(watchers: list[Callback], status: str, facts: dict[str, Any]) -> None:
    for watcher in watchers:
        watcher.on_finish(status, facts)
