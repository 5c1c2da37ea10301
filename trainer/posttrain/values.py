"""A model with its values, cut over the ranks, from a checkpoint or from the model that it was compressed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh

from trainer import worker
from trainer.checkpoint.export import MODEL
from trainer.checkpoint.tensors import StoredTensors
from trainer.compress.model import Compressed
from trainer.compress.subject import Change, Subject, local
from trainer.config import Config
from trainer.data.base import Samples
from trainer.errors import ConfigError
from trainer.models.base import Model
from trainer.strategies.engine import Engine
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single


def without_values(model: Model, config: Config, samples: Samples, device: torch.device) -> Engine:
    """`model` cut over all ranks, each with its share, whatever strategy trained it."""
    ranks = dist.get_world_size()
    strategy = FSDP() if ranks > 1 else Single()
    mesh = init_device_mesh(device.type, (ranks,), mesh_dim_names=("dp",))
    return worker.build_engine(dataclasses.replace(config, model=model, strategy=strategy), samples, device, mesh)


def load(engine: Engine, path: Path) -> None:
    """Take the model's values from the checkpoint at `path`. A collective.

    Raises:
        ConfigError: the model, as it was built for the data at hand, is not of the shapes in the checkpoint.
    """
    state = model_state(engine)
    _check_shapes(state, path)
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(path)))


def _check_shapes(state: Mapping[str, Tensor], path: Path) -> None:
    stored = StoredTensors(path).metas
    for name, value in state.items():
        shape = stored[name].shape if name in stored else None
        if shape != tuple(value.shape):
            there = f"is {shape} in {path}" if shape else f"is not in {path}"
            raise ConfigError(
                f"data: makes {name.removeprefix(MODEL)} of the model {tuple(value.shape)}, which {there}; give data of the shape it was trained on"
            )


def model_state(engine: Engine) -> dict[str, Any]:
    """Parameters and persistent buffers under the names that they have in a checkpoint."""
    return {name: value for name, value in engine.state_dict().items() if name.startswith(MODEL)}


def changed(subject: Subject, change: Change, config: Config) -> Subject:
    """`subject` with the layers of `change` in their new form, or with its model."""
    if not (change.forms or change.model):
        return subject
    model = change.model
    if model is None:
        before = subject.model
        base, forms = (before.base, before.forms) if isinstance(before, Compressed) else (before, {})
        forms = {name: form for name, form in {**forms, **change.forms}.items() if form}
        model = Compressed(base=base, forms=forms)
    now = dataclasses.replace(subject, model=model, engine=without_values(model, config, subject.samples, subject.engine.device))
    values = {**subject.values(), **change.values}
    with torch.no_grad():
        for name, target in now.values().items():
            local(target).copy_(local(values[name]))
    return now
