"""What every cell is compared with: one process, under the SGD witness and the config's own optimizer."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Config
from trainer.errors import ConfigError, RunError
from trainer.prove.fork import Forked
from trainer.prove.join import joined
from trainer.prove.options import ProveOptions
from trainer.prove.trace import Trace
from trainer.sections import OptimConfig, OptimizerName

if TYPE_CHECKING:
    from trainer.distributed import Place

WITNESS = "sgd"
TRIES = 3  # at a clip that binds in every step
WITNESS_STEP = 0.003  # of the parameters' norm: far above rounding, and far below what makes training unstable


@dataclass
class Reference:
    """What one process did."""

    directory: Path
    facts: dict[str, Any]
    """What was found out before: dropout set to 0, the first gradient norm, the data, ..."""
    optimizers: dict[str, OptimConfig]
    """What every cell trains under, its clip chosen to bind."""
    clips: dict[str, dict[str, Any]]
    traces: dict[str, Trace]
    same_buffers: dict[str, frozenset[str]]
    """Buffers that do not depend on how micro-batches are cut; none before the control run is known."""


def find_reference(config: Config, options: ProveOptions, directory: Path, resume_at: int = 0) -> Reference:
    """Train on one process, under the SGD witness and the config's own optimizer; save after step `resume_at`, if any.

    Raises:
        ConfigError: the loss is not a sum over samples, or the model does not fit the data.
        RunError: the model does not train.
    """
    _finish(Forked(1, lambda place: _look(config, place, directory, options.timeout), directory / "look", options.timeout))
    facts = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
    own = config.optim.name.name
    optimizers = {WITNESS: _witness(config.optim, facts, options.sgd_lr)}
    optimizers[own if own != WITNESS else "sgd, as configured"] = config.optim
    running = [
        Forked(
            1,
            lambda place, name=name, optim=optim: _train_clipped(config, name, optim, facts, place, directory, options.timeout, resume_at),
            directory / f"log {name}",
            options.timeout * TRIES,
        )
        for name, optim in optimizers.items()
    ]
    try:
        for forked in running:
            _finish(forked)
    finally:
        for forked in running:
            forked.kill()
    clips = {name: json.loads((directory / name / "clip.json").read_text(encoding="utf-8")) for name in optimizers}
    traces = {name: Trace.load(directory / name) for name in optimizers}
    clipped = {name: dataclasses.replace(optim, max_norm=clips[name]["max_norm"]) for name, optim in optimizers.items()}
    return Reference(directory, facts, clipped, clips, traces, {name: frozenset() for name in traces})


def _finish(forked: Forked) -> None:
    failure = forked.wait().failure()
    if failure is None:
        return
    if failure.config_error:
        raise ConfigError(failure.line)
    raise RunError(f"one process, without any strategy, does not train: {failure.line}\n\n{failure.trace}")


def _witness(optim: OptimConfig, facts: dict[str, Any], lr: float | None) -> OptimConfig:
    """Plain SGD with the config's weight decay and schedule."""
    if lr is None:
        norm = facts["parameter_norm"]
        lr = float(f"{WITNESS_STEP * norm / (facts['first_norm'] / 2 + optim.weight_decay * norm):.2g}")
    return dataclasses.replace(optim, name=OptimizerName.sgd, lr=lr, momentum=0.0)


def _look(config: Config, place: Place, directory: Path, timeout: float) -> None:
    """What has to be known before: on one process."""
    import torch

    from trainer.materialise import blueprint
    from trainer.order import Order, micro_batches
    from trainer.precision import param_dtype
    from trainer.prove.rank import record
    from trainer.prove.silence import without_dropout
    from trainer.prove.summed import not_a_sum

    with joined(config, place, timedelta(seconds=timeout)) as device:
        samples = config.data.open("train")
        model, silenced = without_dropout(config.model)
        plan = blueprint(model, samples.spec, config.train.seed, torch.device("cpu"), param_dtype(config.train.precision))
        plan.fill(plan.module)
        order = Order(len(samples), config.train.seed)
        first = [order[i] for span in micro_batches(1, config.train.global_batch_size, 0, 1, None) for i in span]
        if problem := not_a_sum(model, plan.module, samples, first):
            raise ConfigError(problem)
        unclipped = dataclasses.replace(
            config, model=model, optim=dataclasses.replace(config.optim, max_norm=0.0), train=dataclasses.replace(config.train, max_steps=1)
        )
        trace = record(unclipped, samples, device, directory / "look")
        facts = {
            "dropout": silenced,
            "first_norm": trace.steps[0].grad_norm,
            "parameter_norm": math.sqrt(float((trace.sketches[0][trace.trainable] ** 2).sum())),
            "parameters": sum(numel for name, numel in zip(trace.names, trace.numel, strict=True) if name not in trace.buffers),
            "data": {key: value for key, value in samples.describe().items() if isinstance(value, (str, int, float))},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }
        if not facts["first_norm"]:
            raise ConfigError("the gradient is zero in the first step: nothing would be proved")
    (directory / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _train_clipped(config: Config, name: str, optim: OptimConfig, facts: dict[str, Any], place: Place, directory: Path, timeout: float, resume_at: int) -> None:
    """Train with a clip below every step's gradient norm: half of the first, and less where norms fall below that."""
    from trainer.prove.rank import record
    from trainer.prove.silence import without_dropout

    max_norm = facts["first_norm"] / 2
    with joined(config, place, timedelta(seconds=timeout)) as device:
        config = dataclasses.replace(config, model=without_dropout(config.model)[0])
        samples = config.data.open("train")
        for _ in range(TRIES):
            max_norm = float(f"{max_norm:.3g}")
            clipped = dataclasses.replace(config, optim=dataclasses.replace(optim, max_norm=max_norm))
            trace = record(clipped, samples, device, directory / name, save_after=resume_at)
            norms = [step.grad_norm for step in trace.steps]
            if min(norms) > max_norm:
                break
            max_norm = min(norms) / 2
        clip = {"max_norm": max_norm, "bound_steps": sum(norm > max_norm for norm in norms), "least_norm": min(norms)}
    (directory / name / "clip.json").write_text(json.dumps(clip), encoding="utf-8")
