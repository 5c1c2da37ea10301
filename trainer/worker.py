"""What each rank runs: set up, resume, train, evaluate, save, take down."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import trainer
from trainer import callbacks as callback_parts
from trainer import config as configs
from trainer import distributed, precision
from trainer.callbacks.profile import Profile
from trainer.checkpoint.directory import directory, last_step, remove_after
from trainer.checkpoint.resume import resume
from trainer.checkpoint.saver import Saver
from trainer.config import Config
from trainer.data.base import Samples
from trainer.distributed import Place
from trainer.errors import Stopped
from trainer.loader import Loader
from trainer.loop import Mark, StepResult, evaluate, train_steps
from trainer.materialise import blueprint
from trainer.recording import Progress, record, run_info
from trainer.state import Callback, RunInfo
from trainer.strategies.engine import Engine
from trainer.units import interval
from trainer.writing import writing


def run(config: Config, place: Place, asked: list[int] | None = None) -> None:
    """Train as `config` says, as one rank of `place.world_size`.

    `asked` becomes non-empty when somebody other than this process's signals asks for a stop (Ray).

    Raises:
        ConfigError: what could only be found out here (the data, the model, the checkpoint).
        RunError: a loss that is not finite, for one.
        Stopped: asked to stop by a signal; a checkpoint is written.
    """
    assert config.run_dir is not None
    with ExitStack() as stack:
        stop_asked = stack.enter_context(_signals([] if asked is None else asked))
        device = distributed.pick_device(config.train.device.name, place.local_rank)
        distributed.make_deterministic(config.train.deterministic and device.type == "cuda")
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
    flops = config.model.flops(plan.module, samples.spec)  # before parameters are cut: zero3 leaves them without elements
    engine = config.strategy.setup(plan, config, mesh)
    engine.flops = flops
    return engine


def _train(config: Config, run_dir: Path, device: torch.device, stop_asked: list[int], stack: ExitStack) -> None:
    samples, held_out = config.data.open("train"), config.data.open("eval")
    rank, last = dist.get_rank(), last_step(config)
    engine = build_engine(config, samples, device)
    facts = _facts(config, samples)
    position, found = resume(engine, run_dir, config.checkpoint.resume, facts)
    loader = make_loader(config, samples, device, range(position.step + 1, last + 1))
    stack.callback(loader.close)
    watchers: list[Callback] = []
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_after(run_dir, position.step)
        with writing(run_dir / "config.yaml"):
            configs.save(config, run_dir / "config.yaml")
        watchers = callback_parts.make(config, run_dir)
        for watcher in reversed(watchers):
            stack.callback(watcher.close)
    info = run_info(config, run_dir, samples, engine, position, found)
    for watcher in watchers:
        watcher.on_start(info)
    progress = Progress(position, Mark(device))
    saver = Saver(engine, run_dir, config.checkpoint, facts, position.step, partial(_before_checkpoint, watchers))
    stack.push(saver.close)
    profile = Profile(run_dir, config.profile.steps, rank)
    stack.callback(profile.close)
    steps = profile.around(train_steps(engine, config.model, loader, config, position.step + 1, stop_asked, saver.due), position.step + 1)
    stopped = consume(steps, engine, config, held_out, saver, progress, info, watchers)
    step = progress.position.step
    saver.finish(progress.position)
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


def make_loader(config: Config, samples: Samples, device: torch.device, steps: range) -> Loader:
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
    )


def consume(
    steps: Iterator[StepResult],
    engine: Engine,
    config: Config,
    held_out: Samples,
    saver: Saver,
    progress: Progress,
    info: RunInfo,
    watchers: list[Callback],
) -> bool:
    """Take the steps: record each one step late, evaluate and save where it is due; returns whether a stop was asked for."""
    pending: StepResult | None = None
    stopping = save_asked = False
    save_every, _ = interval(config.checkpoint.every)
    progress.mark = Mark(engine.device)

    def take(result: StepResult) -> None:
        nonlocal stopping, save_asked
        values = record(result, progress, info, watchers, saver.wait)
        stopping, save_asked = stopping or values.stop, save_asked or values.save

    for result in steps:
        if pending is not None:
            take(pending)
        pending = result
        due_eval = _due(config.eval.every, result.step) and not (config.eval.at_end and result.step == info.last_step)
        due_save = _due(save_every, result.step) or save_asked
        if due_eval or due_save or stopping:  # these need the step's own results
            take(result)
            pending = None
            if due_eval:
                _evaluate(engine, config, held_out, result.step, watchers, progress)
            if due_save:
                saver.save(progress.position)
                save_asked = False
            progress.mark = Mark(engine.device)
        saver.poll()
        if stopping:
            break
    if pending is not None:
        take(pending)
    return stopping


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(engine: Engine, config: Config, held_out: Samples, step: int, watchers: list[Callback], progress: Progress) -> None:
    progress.metrics = evaluate(engine, config.model, held_out, config.eval.batch_size)
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


def _before_checkpoint(watchers: list[Callback], step: int, path: Path) -> None:
    for watcher in watchers:
        watcher.on_checkpoint(step, path)


def _finish(watchers: list[Callback], status: str, facts: dict[str, Any]) -> None:
    for watcher in watchers:
        watcher.on_finish(status, facts)
