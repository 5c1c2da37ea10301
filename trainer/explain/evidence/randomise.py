"""A trained model made untrained, layer by layer, whatever form its layers have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.compress.form import CompressedLayer
from trainer.errors import ConfigError
from trainer.explain.calls import calls
from trainer.materialise import can_reset, stable_seed
from trainer.models.base import Model


def called(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the submodules that own parameters, in the order in which `run` is through with them; those that it never calls are left out."""
    owners = ((name, sub) for name, sub in module.named_modules() if next(sub.parameters(recurse=False), None) is not None)
    return list(dict.fromkeys(call.name for call in calls(owners, run)))


def stages(names: Sequence[str], most: int) -> list[list[str]]:
    """`names`, from input to output, as at most `most` stages from the output to the input; the first is the last layer alone."""
    backwards = list(reversed(names))
    if len(backwards) <= most:
        return [[name] for name in backwards]
    bounds = [1 + number * (len(backwards) - 1) // (most - 1) for number in range(most)]
    return [backwards[:1], *(backwards[start:end] for start, end in pairwise(bounds))]


@torch.no_grad()
def randomise(model: Model, module: nn.Module, name: str, seed: int) -> bool:
    """Take from layer `name` of `module` what it has learned; a function of (seed, name). Gives whether that could be done.

    Initial values, as before training. What has none (integers and packed bits, whose `reset_parameters` gives zeros, and pre-trained
    weights, which are their own initial values) is shuffled: the weights of each output among themselves, so that its sums and scales hold.
    """
    layer = module.get_submodule(name)
    device = next(layer.parameters(recurse=False)).device
    before = [value.clone() for value in layer.parameters(recurse=False)]
    buffers = [value.clone() for value in layer.buffers(recurse=False)]
    layer.to("cpu")  # drawn there, the values are the same for every device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(seed, name))
        if not _initialise(model, module, layer) or not _changed(layer, before):
            for value in layer.parameters(recurse=False):
                if value.ndim > 1:
                    value.copy_(_shuffled_rows(value))
    layer.to(device)
    if isinstance(layer, CompressedLayer):  # ranges that calibration has found are no weights
        for value, kept in zip(layer.buffers(recurse=False), buffers, strict=True):
            value.copy_(kept)
        layer.for_inference()  # what it keeps was made of the old weights
    return _changed(layer, before)


def _initialise(model: Model, module: nn.Module, layer: nn.Module) -> bool:
    """Whether `layer` has initial values, and was given them."""
    if any(not value.is_floating_point() for value in layer.parameters(recurse=False)) or not can_reset(model, layer):
        return False
    try:
        model.initialise(module, layer)
    except (AttributeError, ConfigError):  # it says that it can, and has nothing to do it with
        return False
    return True


def _shuffled_rows(value: Tensor) -> Tensor:
    rows = value.flatten(1)
    return rows.gather(1, torch.rand(rows.shape).argsort(1)).view_as(value)


def _changed(layer: nn.Module, before: Sequence[Tensor]) -> bool:
    return any(not torch.equal(value.cpu(), old.cpu()) for value, old in zip(layer.parameters(recurse=False), before, strict=True))
