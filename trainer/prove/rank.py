"""What each rank of a cell runs: the trainer's own loop, watched."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.checkpoint.directory import directory as checkpoint_directory
from trainer.checkpoint.load import load
from trainer.checkpoint.save import save
from trainer.config import Config
from trainer.data.base import IGNORE, Samples
from trainer.distributed import Place
from trainer.errors import RunError
from trainer.loop import train_steps
from trainer.models.base import Model
from trainer.prove.join import joined
from trainer.prove.saved import saved_differences
from trainer.prove.silence import without_dropout
from trainer.prove.sketch import Sketches, digest
from trainer.prove.task import Task
from trainer.prove.trace import CROSSED, FINAL, INITIAL, RESUMED, SAVED, TASK, Split, Step, Trace
from trainer.state import Position
from trainer.strategies.engine import Engine
from trainer.worker import build_engine, make_loader, manifest_facts

HYPERPARAMETERS = ("weight_decay", "betas", "eps", "momentum", "amsgrad", "nesterov", "maximize")


def run_cell(config: Config, task: Task, directory: Path, device: torch.device) -> None:
    """Train under each of the task's optimizers from the same initial values; rank 0 writes `directory`/NAME/.

    The process group is there already. A collective.
    """
    torch.backends.cudnn.allow_tf32 = False  # the bands are fp32's
    config = dataclasses.replace(config, model=without_dropout(config.model)[0])
    samples = config.data.open("train")
    for name, optim in task.optimizers.items():
        own = dataclasses.replace(config, optim=optim)
        record(own, samples, device, directory / name, save_after=task.resume_at)
        if task.resume_at:
            found, canonical = (checkpoint_directory(place / name, task.resume_at) for place in (directory, task.reference))
            record(own, samples, device, directory / name / RESUMED, start=found)
            record(own, samples, device, directory / name / CROSSED, start=canonical)
            if dist.get_rank() == 0:
                apart = saved_differences(found, canonical, task.reference / name / INITIAL)
                (directory / name / SAVED).write_text(json.dumps(apart), encoding="utf-8")


def run_launched(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """`run_cell` on a rank that a launcher started; `config.run_dir` holds the task and takes the traces."""
    assert config.run_dir is not None
    directory = Path(config.run_dir)
    task = Task.load(directory / TASK)
    with joined(config, place, timedelta(minutes=30)) as device:
        run_cell(config, task, directory, device)


def record(config: Config, samples: Samples, device: torch.device, directory: Path, *, start: Path | None = None, save_after: int = 0) -> Trace:
    """Train to `train.max_steps` and trace each step; rank 0 writes the trace and whole parameters to `directory`. A collective.

    `start` is a checkpoint to go on from; a checkpoint in `directory` is written after step `save_after` (0: none).
    """
    assert config.strategy is not None
    engine = build_engine(config, samples, device, config.strategy.mesh(dist.get_world_size(), device.type))
    steps, rank, ranks = config.train.max_steps, dist.get_rank(), dist.get_world_size()
    facts = manifest_facts(config, samples)
    position = Position(0, 0) if start is None else load(engine, start, facts)
    fed: list[tuple[list[str], int]] = []
    model = _watched(config.model, fed)
    loader = make_loader(dataclasses.replace(config, model=model), samples, device, range(position.step + 1, steps + 1))
    trace = Trace(hyperparameters=hyperparameters(engine))
    observer = _Observer(engine, trace, directory if rank == 0 else None, steps)
    try:
        observer.observe(position.step)
        for result in train_steps(engine, model, loader, config, position.step + 1, []):
            values = result.read()
            if values.bad_in_a_row:
                raise RunError(f"step {result.step}: the loss ({values.loss:g}) or the gradient norm ({values.grad_norm:g}) is not finite")
            own = ([item for items, _ in fed for item in items], sum(count for _, count in fed))
            fed.clear()
            every: list[tuple[list[str], int]] = [own] * ranks
            dist.all_gather_object(every, own)
            lr = float(engine.optimizer.param_groups[0]["lr"])
            trace.steps.append(Step(values.loss, values.grad_norm, lr, [items for items, _ in every], [count for _, count in every]))
            observer.observe(result.step)
            position = Position(result.step, position.tokens + values.count)
            if result.step == save_after:
                save(engine, position, directory, facts)
    finally:
        loader.close()
    observer.close()
    return trace


def hyperparameters(engine: Engine) -> dict[str, dict[str, Any]]:
    """See `Trace.hyperparameters`."""
    names = {id(parameter): name for name, parameter in engine.named_parameters()}
    found: dict[str, dict[str, Any]] = {}
    for index, group in enumerate(engine.optimizer.param_groups):
        settings = {key: group[key] for key in HYPERPARAMETERS if key in group}
        found |= {names.get(id(parameter), f"group {index}"): settings for parameter in group["params"]}
    return found


def _watched(model: Model, fed: list[tuple[list[str], int]]) -> Model:
    """`model`, noting in `fed` the samples of every batch that its loss is asked for."""
    watched = copy.copy(model)

    def loss(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        on_cpu = {key: value.cpu() for key, value in batch.items()}
        fed.append((sample_digests(on_cpu), model.count(on_cpu)))
        return model.loss(module, batch)

    watched.loss = loss  # type: ignore[method-assign]
    return watched


def sample_digests(batch: Mapping[str, Tensor]) -> list[str]:
    """One digest a sample: of its content, without what pads it to the length of its batch."""
    hashes = [hashlib.sha256() for _ in range(next(iter(batch.values())).shape[0])]
    for key in sorted(batch):
        fill = IGNORE if key == "labels" else 0
        for row, hashed in zip(batch[key].flatten(1) if batch[key].ndim > 1 else batch[key][:, None], hashes, strict=True):
            filled = (row != fill).nonzero()
            hashed.update(key.encode() + row[: int(filled[-1]) + 1 if len(filled) else 0].contiguous().numpy().tobytes())
    return [hashed.hexdigest()[:16] for hashed in hashes]


class _Observer:
    """Looks at the whole model between steps."""

    def __init__(self, engine: Engine, trace: Trace, directory: Path | None, last: int):
        self.engine, self.trace, self.directory, self.last = engine, trace, directory, last
        self.sketch = Sketches()
        self.sketches: list[list[np.ndarray]] = []
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def observe(self, step: int) -> None:
        """Add the state after `step`. A collective."""
        trace = self.trace
        first = not trace.digests
        if first:
            trace.frozen = [name for name, parameter in self.engine.named_parameters() if not parameter.requires_grad]
            trace.buffers = [name for name, _ in self.engine.persistent_buffers()]
        digests: dict[str, str] = {}
        sketches: list[np.ndarray] = []
        numel: list[int] = []
        kept: dict[str, Tensor] = {}
        buffers = ((name, value.detach().cpu()) for name, value in self.engine.persistent_buffers())
        for name, value in chain(self.engine.full_tensors(), buffers):
            array = value.numpy()
            digests[name] = digest(array)
            numel.append(value.numel())
            if self.directory is not None:
                sketches.append(self.sketch(name, array))
                if step in (0, self.last):
                    kept[name] = value.clone().contiguous()
        if first:
            trace.names, trace.numel = list(digests), numel
        trace.digests.append(list(digests.values()))
        self.sketches.append(sketches)
        self._compare_ranks(step, digests)
        if self.directory is not None and kept:
            save_file(kept, self.directory / (INITIAL if step == 0 else FINAL))

    def _compare_ranks(self, step: int, own: dict[str, str]) -> None:
        every: list[dict[str, str]] = [own] * dist.get_world_size()
        dist.all_gather_object(every, own)
        if self.trace.split is None:
            for name in every[0]:
                ranks = [rank for rank, other in enumerate(every) if other.get(name) != every[0][name]]
                if ranks:
                    self.trace.split = Split(step, name, ranks)
                    return

    def close(self) -> None:
        """Write what was seen."""
        if self.directory is not None:
            self.trace.sketches = np.array(self.sketches)
            self.trace.save(self.directory)
