"""What is compressed: a model whose values are cut over the ranks, and how it is changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from trainer.checkpoint.export import MODEL
from trainer.data.base import Samples
from trainer.loader import to_device
from trainer.models.base import Model
from trainer.strategies.engine import Engine


@dataclass
class Subject:
    """A trained model. Nobody holds it whole: parameters are cut along their first dimension where there are several ranks."""

    model: Model
    engine: Engine
    samples: Samples
    """The training split, for calibration."""
    batch_size: int
    """Samples in one forward pass."""

    def layers(self) -> dict[str, nn.Module]:
        """Full names and modules of what can be compressed."""
        return layers_of(self.model, self.engine.module)

    def turns(self, count: int) -> list[tuple[range, int]]:
        """This rank's batches of the first `count` samples; and 1 for each, or 0 where it only keeps the ranks together, for a pass is a collective."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        count = min(count, len(self.samples))
        starts = list(range(0, count, self.batch_size))
        mine = [turn + rank for turn in range(0, len(starts), ranks)]
        places = [starts[turn] if turn < len(starts) else 0 for turn in mine]
        return [(range(start, min(start + self.batch_size, count)), int(turn < len(starts))) for start, turn in zip(places, mine, strict=True)]

    def metrics(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's, of a forward pass over `batch`. A collective."""
        return self.engine.metrics(self.model, to_device(batch, self.engine.device))

    def values(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by their names in the model."""
        return {name.removeprefix(MODEL): value for name, value in self.engine.state_dict().items() if name.startswith(MODEL)}


@dataclass
class Change:
    """What a compressor has made of a subject."""

    forms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Full name of a layer to its new form (see `trainer.compress.form`); an empty one: the plain layer again."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """Values of the parameters of those layers by their full names, cut as `cut` does it."""
    model: Model | None = None
    """Another model in the place of the subject's, whose values are all in `values`."""
    told: dict[str, dict[str, float]] = field(default_factory=dict)
    """Figures for the report, by layer."""


def layers_of(model: Model, module: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolutional layers in the model's blocks, or in all of it where it names none. Tied ones are left out."""
    names = {id(sub): name for name, sub in module.named_modules()}
    owners: dict[int, int] = {}
    for sub in module.modules():
        for parameter in sub.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = {}
    for part in model.blocks(module) or [module]:
        for sub in part.modules():
            plain = isinstance(sub, nn.Linear) or (isinstance(sub, nn.Conv2d) and sub.groups == 1 and not isinstance(sub.padding, str))
            if plain and all(owners[id(parameter)] == 1 for parameter in sub.parameters(recurse=False)):
                found[names[id(sub)]] = sub
    return found


def local(value: Tensor) -> Tensor:
    """This rank's rows."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All rows, on every rank: for one layer at a time. A collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def cut(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which every rank holds whole, cut over the ranks as `like` is, along its first dimension."""
    if not isinstance(like, DTensor):
        return value
    shape, offset = compute_local_shape_and_global_offset(value.shape, like.device_mesh, like.placements)
    rows = value[offset[0] : offset[0] + shape[0]] if shape[0] else value[:0]
    return DTensor.from_local(rows.contiguous(), like.device_mesh, like.placements, run_check=False, shape=value.shape, stride=value.contiguous().stride())


def rows_of(value: Tensor, like: Tensor) -> Tensor:
    """Of `value`, which every rank holds whole, the rows that this rank holds of `like`."""
    return local(cut(value, like))


def joined(rows: Tensor, like: Tensor) -> Tensor:
    """The rows of all ranks as one tensor, of which `rows` are those that belong to this rank's of `like`."""
    if not isinstance(like, DTensor):
        return rows
    shape = torch.Size((like.shape[0], *rows.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(rows.contiguous(), like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)


def error(before: Tensor, after: Tensor) -> float:
    """Relative error of a layer's weights, in the Frobenius norm."""
    return relative(float((before - after).square().sum()), float(before.square().sum()))


def relative(lost: float, every: float) -> float:
    """The same from sums of squares: of what is lost, and of what was there."""
    return (lost / every) ** 0.5 if every else 0.0 if not lost else math.inf
