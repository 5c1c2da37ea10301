"""What each rank runs: set up, resume, train, evaluate, save, take down."""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

import trainer
from trainer import callbacks as callback_parts
from trainer import config as configs
from trainer import distributed, precision, signals
from trainer.bad_steps import RollBack, Start, keep_lines
from trainer.callbacks.metrics import EVALS, last_recorded
from trainer.callbacks.profile import Profile
from trainer.callbacks.watchers import Watchers
from trainer.checkpoint.directory import LAUNCHES, MODEL_IDENTITY, directory, last_step, remove_after
from trainer.checkpoint.reduction import REDUCTION, prepare
from trainer.checkpoint.resume import resume
from trainer.checkpoint.saver import Saver
from trainer.config import Config
from trainer.data.base import Samples
from trainer.distributed import Place
from trainer.doctor.recorder import recorded
from trainer.doctor.watch import Watch
from trainer.errors import RunError, Stopped, run_again
from trainer.launchers.ranks import tell_failure
from trainer.ledger import start_began
from trainer.loader import Loader
from trainer.loop import Mark, StepResult, evaluate, train_steps
from trainer.materialise import blueprint
from trainer.recording import Progress, record, run_info
from trainer.sections import OnBadSteps
from trainer.state import Position, RunInfo
from trainer.strategies.engine import Engine
from trainer.units import interval
from trainer.whereabouts import Phase, Whereabouts
from trainer.writing import writing


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
    assert config.strategy is not None
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a crash in native code then says where it was
    run_dir = Path(config.run_dir)
    watch = Watch(run_dir, place.rank, config.run.stall_timeout, config.checkpoint.resume, tell)
    with recorded(run_dir, place.rank, place.world_size, watch) as where, ExitStack() as stack:
        stop_asked = stack.enter_context(signals.kept([] if asked is None else asked))
        device = distributed.pick_device(config.train.device.name, place.local_rank)
        distributed.make_deterministic(config.train.deterministic and device.type == "cuda")
        try:
            distributed.init(place, device, stop_asked, where=where)
        except Stopped as error:
            raise Stopped(f"{error}; {run_again(run_dir, config.checkpoint.resume)} to go on") from None
        stack.callback(distributed.close)
        launches = distributed.launches(place)
        mesh = config.strategy.mesh(place.world_size, device.type)
        start = Start(config.checkpoint.resume)

        def train(start: Start, stack: ExitStack) -> None:
            _train(start, config, run_dir, launches, device, mesh, stop_asked, where, stack)

        while (back := _train_from(start, train)) is not None:
            gc.collect()  # the model goes before the next is made
            start = back


def _train_from(start: Start, train: Callable[[Start, ExitStack], None]) -> Start | None:
    """`train` from `start` to the end; returns from where to begin again after too many bad steps, or None."""
    with ExitStack() as stack:
        try:
            train(start, stack)
        except RollBack as error:
            return error.start
    return None


def build_engine(config: Config, samples: Samples, device: torch.device, mesh: DeviceMesh) -> Engine:
    """The model of `config` under its strategy, with fresh values."""
    assert config.strategy is not None
    plan = blueprint(config.model, samples.spec, config.train.seed, device, precision.param_dtype(config.train.precision))
    flops = config.model.flops(plan.module, samples.spec)  # before parameters are cut: zero3 leaves them without elements
    engine = config.strategy.setup(plan, config, mesh)
    engine.flops = flops
    return engine


def _train(
    start: Start,
    config: Config,
    run_dir: Path,
    launches: Sequence[str],
    device: torch.device,
    mesh: DeviceMesh,
    stop_asked: list[int],
    where: Whereabouts,
    stack: ExitStack,
) -> None:
    began = start_began()
    where.begin()
    prepare(config.data, run_dir, start.resume, device)
    samples, held_out = config.data.open("train"), config.data.open("eval")
    rank, last = dist.get_rank(), last_step(config)
    engine = build_engine(config, samples, device, mesh)
    facts = manifest_facts(config, samples, launches)
    position, found = resume(engine, run_dir, start.resume, facts, strict=config.checkpoint.strict)
    position = dataclasses.replace(position, passed_over=tuple(sorted({*position.passed_over, *start.passed_over})))
    loader = make_loader(config, samples, device, range(position.step + 1, last + 1), position.passed_over, where)
    stack.callback(loader.close)
    watchers = Watchers()
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_after(run_dir, position.step)
        keep_lines(run_dir, position)
        with writing(run_dir / "config.yaml"):
            configs.save(config, run_dir / "config.yaml")
        watchers = Watchers(callback_parts.make(config, run_dir))
        stack.callback(watchers.close)
    anew = found is None and start.resume == "never" and start.last_good is None
    if anew:
        where.before = 0  # those were steps of a run that this one replaces
    info = run_info(config, run_dir, samples, engine, position, found, taken_before=where.before, anew=anew, began=began)
    watchers.on_start(info)
    progress = Progress(position, Mark(device), loader.order, start, "never" if found is None else str(found), where)
    where.step = position.step
    saved = _step_saved(run_dir, position, found)
    saver = Saver(engine, run_dir, config.checkpoint, facts, saved, watchers.on_checkpoint)
    stack.push(saver.close)
    profile = Profile(run_dir, config.profile.steps, rank)
    stack.callback(profile.close)
    steps = profile.around(train_steps(engine, config.model, loader, config, position.step + 1, stop_asked, saver.due), position.step + 1)
    stopped = _evaluation_missing(config, run_dir, saved) and _evaluate(engine, config, held_out, position.step, watchers, progress, stop_asked)
    stopped = stopped or consume(steps, engine, config, held_out, saver, progress, info, watchers, stop_asked)
    if stopped and progress.position.step < last:
        progress.position = progress.good  # bad steps at the end are done again: nothing of them is lost, and they are counted from 1
    where.phase = Phase.END
    step = progress.position.step
    with where.during(Phase.SAVE):
        saver.finish(progress.position)
    watchers.on_checkpoint_end(step)
    again = run_again(run_dir, config.checkpoint.resume)
    if stopped and step < last:
        watchers.on_finish("stopped", {})
        raise Stopped(f"at step {step}, saved in {directory(run_dir, step)}; {again} to go on")
    if config.eval.at_end and _evaluate(engine, config, held_out, step, watchers, progress, stop_asked):
        watchers.on_finish("preempted", {})
        raise Stopped(f"at step {step}, saved in {directory(run_dir, step)}, before its last evaluation; {again} to go on")
    told: dict[str, Any] = {"train_loss": progress.train_loss, "eval": progress.metrics}
    with torch.no_grad():
        engine.model.eval()
        told["sample"] = config.model.sample(engine.model, samples, device)
    watchers.on_finish("finished" if step >= config.train.max_steps else "stopped", told)


def make_loader(
    config: Config, samples: Samples, device: torch.device, steps: range, passed_over: Sequence[int] = (), where: Whereabouts | None = None
) -> Loader:
    """This rank's batches of `steps`; batches in `passed_over` are left out of the order."""
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
        passed_over=passed_over,
        where=where,
    )


def consume(
    steps: Iterator[StepResult],
    engine: Engine,
    config: Config,
    held_out: Samples,
    saver: Saver,
    progress: Progress,
    info: RunInfo,
    watchers: Watchers,
    stop_asked: list[int],
) -> bool:
    """Take the steps: record each one step late, evaluate and save where it is due; returns whether a stop was asked for."""
    pending: StepResult | None = None
    stopping = save_asked = False
    save_every, _ = interval(config.checkpoint.every)
    progress.mark = Mark(engine.device)

    began_with, first_good = saver.saved, progress.good.step

    def settle() -> None:
        saver.wait()
        if config.train.on_bad_steps is OnBadSteps.stop and progress.good.step > first_good:
            keep_good()
        if saver.saved != began_with:
            progress.resume = "auto"

    def keep_good() -> None:
        # Bad steps, and after too many of them all that follow, move nothing: the model is still that of the last good step.
        try:
            with progress.where.during(Phase.SAVE):
                saver.finish(progress.good)
        except RunError as error:  # what ends the run is said too
            if dist.get_rank() == 0:
                print(f"warning: {error}", file=sys.stderr)
        else:
            watchers.on_checkpoint_end(progress.good.step)

    def take(result: StepResult) -> None:
        nonlocal stopping, save_asked
        values = record(result, config, progress, info, watchers, settle)
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
            watchers.settle()  # by whose clock what follows is not these steps' time
            if due_eval:
                stopping = _evaluate(engine, config, held_out, result.step, watchers, progress, stop_asked) or stopping
            if due_save and progress.position == progress.good:  # else there is nothing new: a checkpoint to go back to is of a good step
                with progress.where.during(Phase.SAVE):
                    saver.save(progress.position)
                watchers.on_checkpoint_end(result.step)
                save_asked = False
            progress.mark = Mark(engine.device)
        saver.poll()
        if stopping:
            break
    if pending is not None:
        take(pending)
    watchers.settle()
    return stopping


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _evaluate(engine: Engine, config: Config, held_out: Samples, step: int, watchers: Watchers, progress: Progress, stop_asked: list[int]) -> bool:
    """Evaluate as of `step`; returns whether that was given up, because a stop was asked for."""
    with progress.where.during(Phase.EVALUATION):
        found = evaluate(engine, config.model, held_out, config.eval.batch_size, stop_asked, progress.where)
    if found is None:
        return True
    progress.metrics = found.means()
    watchers.on_eval(step, progress.metrics)
    return False


def _step_saved(run_dir: Path, position: Position, found: Path | None) -> int:
    """`position.step` where `found`, which was resumed, is this run's own checkpoint of it; -1: there is none. Rank 0's answer for all."""
    if found is None or not distributed.from_rank_0(lambda: found.resolve() == directory(run_dir, position.step).resolve()):
        return -1
    return position.step


def _evaluation_missing(config: Config, run_dir: Path, saved: int) -> bool:
    """Whether this run was stopped in the evaluation of the step that it goes on from, which is `saved`. Rank 0's answer for all."""
    if saved < 1 or not _due(config.eval.every, saved) or (config.eval.at_end and saved == last_step(config)):
        return False
    return distributed.from_rank_0(lambda: last_recorded(run_dir / EVALS) != saved)


def manifest_facts(config: Config, samples: Samples, launches: Sequence[str] = ()) -> dict[str, Any]:
    """What a checkpoint's manifest says beside its position; `launches` is which launch writes it."""
    assert config.strategy is not None
    return {
        "strategy": config.strategy.name,
        "world_size": dist.get_world_size(),
        "versions": {"trainer": trainer.__version__, "torch": torch.__version__},
        "data_fingerprint": samples.fingerprint,
        "data_lineage": samples.describe().get("lineage"),
        "data_spec": dict(samples.spec),
        **({} if samples.preparation is None else {"data_preparation": dict(samples.preparation)}),
        **({} if samples.reduction is None else {REDUCTION: samples.reduction}),
        MODEL_IDENTITY: config.model.identity(),
        LAUNCHES: list(launches),
        "config": configs.to_plain(config),
    }
