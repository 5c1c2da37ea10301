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
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.config import Config
from trainer.data.base import IGNORE, Samples
from trainer.distributed import Place
from trainer.errors import RunError
from trainer.loader import Loader
from trainer.loop import train_steps
from trainer.models.base import Model
from trainer.prove.join import joined
from trainer.prove.silence import without_dropout
from trainer.prove.sketch import Sketches, digest
from trainer.prove.trace import FINAL, INITIAL, OPTIMIZERS, Split, Step, Trace
from trainer.sections import OptimConfig
from trainer.strategies.engine import Engine
from trainer.worker import build_engine

HYPERPARAMETERS = ("weight_decay", "betas", "eps", "momentum", "amsgrad", "nesterov", "maximize")


def run_cell(config: Config, optimizers: Mapping[str, OptimConfig], directory: Path, device: torch.device) -> None:
    """Train under each of `optimizers` from the same initial values; rank 0 writes `directory`/NAME/.

    The process group is there already. A collective.
    """
    torch.backends.cudnn.allow_tf32 = False  # the bands are fp32's
    config = dataclasses.replace(config, model=without_dropout(config.model)[0])
    samples = config.data.open("train")
    for name, optim in optimizers.items():
        target = directory / name if dist.get_rank() == 0 else None
        record(dataclasses.replace(config, optim=optim), samples, config.train.max_steps, device, target)


def run_launched(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """`run_cell` on a rank that a launcher started; `config.run_dir` holds the optimizers and takes the traces."""
    assert config.run_dir is not None
    directory = Path(config.run_dir)
    plain = json.loads((directory / OPTIMIZERS).read_text(encoding="utf-8"))
    optimizers = {name: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OptimConfig), values)) for name, values in plain.items()}
    with joined(config, place, timedelta(minutes=30)) as device:
        run_cell(config, optimizers, directory, device)  # type: ignore[arg-type]


def record(config: Config, samples: Samples, steps: int, device: torch.device, directory: Path | None) -> Trace:
    """Train `steps` steps and trace them; with a `directory`, the trace and whole parameters are written to it. A collective."""
    engine = build_engine(config, samples, device)
    train, rank, ranks = config.train, dist.get_rank(), dist.get_world_size()
    fed: list[tuple[list[str], int]] = []
    model = _watched(config.model, fed)
    loader = Loader(
        samples,
        model,
        seed=train.seed,
        global_batch=train.global_batch_size,
        micro_batch=train.micro_batch_size,
        rank=rank,
        ranks=ranks,
        device=device,
        steps=range(1, steps + 1),
        prefetch=config.loader.prefetch,
        workers=config.loader.workers,
    )
    trace = Trace(hyperparameters=hyperparameters(engine))
    observer = _Observer(engine, trace, directory)
    try:
        observer.observe(0, last=False)
        for result in train_steps(engine, model, loader, config, 1, []):
            values = result.read()
            if values.bad:
                raise RunError(f"step {result.step}: the loss ({values.loss:g}) or the gradient norm ({values.grad_norm:g}) is not finite")
            own = ([item for items, _ in fed for item in items], sum(count for _, count in fed))
            fed.clear()
            every: list[tuple[list[str], int]] = [own] * ranks
            dist.all_gather_object(every, own)
            lr = float(engine.optimizer.param_groups[0]["lr"])
            trace.steps.append(Step(values.loss, values.grad_norm, lr, [items for items, _ in every], [count for _, count in every]))
            observer.observe(result.step, last=result.step == steps)
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

    def __init__(self, engine: Engine, trace: Trace, directory: Path | None):
        self.engine, self.trace, self.directory = engine, trace, directory
        self.sketch = Sketches()
        self.sketches: list[list[np.ndarray]] = []
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def observe(self, step: int, *, last: bool) -> None:
        """Add the state after `step`. A collective."""
        trace = self.trace
        if step == 0:
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
                if step == 0 or last:
                    kept[name] = value.clone().contiguous()
        if step == 0:
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
