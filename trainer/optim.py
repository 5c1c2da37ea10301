"""Parameter groups and optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.sections import OptimConfig, OptimizerName

if TYPE_CHECKING:
    from trainer.models.base import Model


def param_groups(model: Model, module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of trainable parameters: with weight decay, and without (norms, biases, embeddings).

    A tied parameter is counted once, under its first name. Raises ConfigError where nothing trains.
    """
    seen: set[int] = set()
    decay: list[Tensor] = []
    plain: list[Tensor] = []
    for name, owner in module.named_modules():
        for key, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                full_name = f"{name}.{key}" if name else key
                (decay if model.decays(full_name, parameter, owner) else plain).append(parameter)
    if not seen:
        raise ConfigError("model: every parameter is frozen, so there is nothing to train; freeze fewer")
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(config: OptimConfig, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that `config` names, fused where PyTorch has a fused kernel."""
    groups = list(groups)
    if config.name is OptimizerName.sgd:
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)  # fused: not for DTensors in torch 2.13
    if config.name is OptimizerName.adafactor:
        return torch.optim.Adafactor(groups, lr=config.lr)
    cls = torch.optim.AdamW if config.name is OptimizerName.adamw else torch.optim.Adam
    return cls(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True)
