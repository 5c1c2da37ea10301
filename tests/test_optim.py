"""Parameter groups and optimizers."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import Net, Tiny
from trainer.errors import ConfigError
from trainer.optim import make_optimizer, param_groups
from trainer.sections import OptimConfig, OptimizerName


def names(tiny: Tiny) -> list[set[str]]:
    module = Net(tiny)
    of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [{of[id(parameter)] for parameter in group["params"]} for group in param_groups(tiny, module, 0.1)]


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    decay, plain = names(Tiny(layers=1))
    assert decay == {"blocks.0.up.weight", "blocks.0.down.weight", "blocks.0.gate.weight", "extra.weight", "head.weight"}
    assert plain == {"embed.weight", "blocks.0.norm.weight", "blocks.0.norm.bias", "blocks.0.up.bias", "blocks.0.down.bias", "blocks.0.gate.bias", "extra.bias"}


def test_a_tied_parameter_is_in_one_group() -> None:
    decay, plain = names(Tiny(layers=1, tied="root"))
    assert "embed.weight" in plain
    assert not decay & plain


def test_frozen_parameters_are_in_none() -> None:
    module = Net(Tiny())
    module.embed.requires_grad_(False)
    module.blocks.requires_grad_(False)
    groups = param_groups(Tiny(), module, 0.1)
    assert sum(len(group["params"]) for group in groups) == 3
    module.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen, so there is nothing to train"):
        param_groups(Tiny(), module, 0.1)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        (OptimizerName.adamw, torch.optim.AdamW),
        (OptimizerName.adam, torch.optim.Adam),
        (OptimizerName.sgd, torch.optim.SGD),
        (OptimizerName.adafactor, torch.optim.Adafactor),
    ],
)
def test_optimizers(name: OptimizerName, cls: type) -> None:
    optimizer = make_optimizer(OptimConfig(name=name, lr=0.25), param_groups(Tiny(), Net(Tiny()), 0.3))
    assert type(optimizer) is cls
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.25, 0.3), (0.25, 0.0)]


def test_knobs_arrive() -> None:
    groups = param_groups(Tiny(), Net(Tiny()), 0.0)
    adamw = make_optimizer(OptimConfig(betas=(0.8, 0.85), eps=1e-3), groups)
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.8, 0.85), 1e-3)
    assert make_optimizer(OptimConfig(name=OptimizerName.sgd, momentum=0.7), groups).defaults["momentum"] == 0.7
