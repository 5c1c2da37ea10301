"""A model of a run directory, compressed or not, whole in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer import config as configs
from trainer.checkpoint.directory import has_manifest, list_whole, read_manifest
from trainer.checkpoint.export import MODEL
from trainer.checkpoint.reduction import take
from trainer.checkpoint.tensors import StoredTensors
from trainer.checkpoint.verify import check
from trainer.compress.form import CompressedLayer
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.materialise import can_reset
from trainer.precision import param_dtype


class Loaded(NamedTuple):
    """What a run has made."""

    module: nn.Module
    """In evaluation mode, on the CPU."""
    config: Config
    """`config.model` knows its loss and metrics."""


def load(path: Path | str) -> Loaded:
    """The model of a checkpoint, or of the newest one of a run directory, whatever strategy and number of ranks wrote it.

    Where its data was reduced, `config.data.open` then reduces as it was.

    Raises:
        ConfigError: there is none.
        RunError: it is damaged.
    """
    path = Path(path)
    if not has_manifest(path):
        whole = list_whole(path)
        if not whole:
            raise ConfigError(f"{path}: has no whole checkpoint")
        path = whole[-1]
    check(path)
    take(path)
    manifest = read_manifest(path)
    config = configs.recorded(manifest["config"])
    module = _built(config, manifest["data_spec"])
    stored = StoredTensors(path)
    ties = {id(value): name for name, value in module.named_parameters()}
    values = {name: stored.read(MODEL + name) for name in {**dict(module.named_parameters()), **_persistent(module)}}
    everywhere = {name: values[ties[id(value)]] for name, value in module.named_parameters(remove_duplicate=False)}
    module.load_state_dict({**values, **everywhere}, assign=True)
    for layer in module.eval().modules():
        if isinstance(layer, CompressedLayer):
            layer.for_inference()
    return Loaded(module, config)


def _built(config: Config, spec: Mapping[str, Any]) -> nn.Module:
    """The model on the meta device, but for the buffers that no checkpoint has, such as frequencies of positions."""
    dtype = param_dtype(config.train.precision)
    with torch.device("meta"):
        module = config.model.build(spec).to(dtype)
    leaves = [leaf for leaf in module.modules() if leaf._non_persistent_buffers_set]
    if not all(can_reset(config.model, leaf) for leaf in leaves):
        return config.model.build(spec).to(dtype)
    for leaf in leaves:
        for key in leaf._non_persistent_buffers_set:
            if (value := leaf._buffers[key]) is not None:
                leaf._buffers[key] = torch.empty_like(value, device="cpu")
        with torch.no_grad():
            config.model.initialise(module, leaf)
    return module


def _persistent(module: nn.Module) -> dict[str, torch.Tensor]:
    keys = set(module.state_dict())
    return {name: value for name, value in module.named_buffers() if name in keys}
