"""From a model on the meta device to one with values, a block at a time.

Initial values are a function of (seed, name), so they are the same under every strategy and on any
number of ranks, and a strategy that shards each block as soon as it is filled never holds more than
its shard and one block.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.models.base import Model


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from `parts`, the same in every process (`hash` is not)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass
class Blueprint:
    """A module without values, and how to fill it. Strategies fill it block by block.

    `module` is on the meta device, unless one of its layers has no `reset_parameters`: then it was
    built in full on the CPU, and `fill` only moves it.
    """

    model: Model
    module: nn.Module
    blocks: Sequence[nn.Module]
    device: torch.device
    dtype: torch.dtype
    fill: Callable[[nn.Module], None]
    """Give values to every parameter and buffer below a submodule that has none yet, on `device`."""


def blueprint(model: Model, spec: Mapping[str, Any], seed: int, device: torch.device, dtype: torch.dtype) -> Blueprint:
    """Build `model` for data of `spec`, without its values.

    Raises:
        ConfigError: it does not fit the data.
    """
    model.check(spec)  # a launcher has asked before, but torchrun, Ray and a proof start ranks without one
    with torch.device("meta"):
        module = model.build(spec)
    weights = model.weights()
    if weights is None and not all(can_reset(model, leaf) for _, leaf in _leaves(module)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(seed, "build"))
            module = model.build(spec)
    module = module.to(dtype)
    names = {id(submodule): name for name, submodule in module.named_modules()}
    for name, parameter in module.named_parameters():
        if model.frozen(name):
            parameter.requires_grad_(False)
    filled: set[int] = set()  # leaves that have their values
    ties = Ties(module)

    def fill(part: nn.Module) -> None:
        for name, leaf in _leaves(part, names[id(part)]):
            if id(leaf) not in filled:
                filled.add(id(leaf))
                _fill_leaf(leaf, lambda: _set_values(model, module, name, leaf, weights, seed), device, dtype, ties)  # noqa: B023 (called at once)

    return Blueprint(model, module, model.blocks(module), device, dtype, fill)


class Ties:
    """Which parameters of a module, as built, stand in several places, and what the first place was filled with.

    Only those are kept, and only until the last place is filled: else no shard would free its whole.
    """

    def __init__(self, module: nn.Module):
        uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
        self._left = {key: count for key, count in uses.items() if count > 1}
        self._filled: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # with the original, so that its id is not given to another

    def resolve(self, original: nn.Parameter, filled: nn.Parameter) -> nn.Parameter:
        """What stands where `original` was: `filled`, or what its first place was filled with."""
        key = id(original)
        if key not in self._left:
            return filled
        _, first = self._filled.setdefault(key, (original, filled))
        self._left[key] -= 1
        if not self._left[key]:
            del self._left[key], self._filled[key]
        return first


def _leaves(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Submodules that own parameters or buffers themselves, in order, with their full names."""
    return [
        (name, submodule)
        for name, submodule in module.named_modules(prefix=prefix)
        if any(value is not None for value in (*submodule._parameters.values(), *submodule._buffers.values()))
    ]


def can_reset(model: Model, leaf: nn.Module) -> bool:
    """Whether `model.initialise` can set the values of `leaf`."""
    from trainer.models.base import Model as Base

    return type(model).initialise is not Base.initialise or hasattr(leaf, "reset_parameters")


def _fill_leaf(leaf: nn.Module, set_values: Callable[[], None], device: torch.device, dtype: torch.dtype, ties: Ties) -> None:
    """Give `leaf` its values on `device`; a parameter that is tied to one filled before becomes that one."""
    built = {key: value for key, value in leaf._parameters.items() if value is not None}
    if any(value.is_meta for value in (*built.values(), *_buffers(leaf).values())):
        for key, value in built.items():
            leaf._parameters[key] = nn.Parameter(_empty_like(value), requires_grad=value.requires_grad)
        for key, value in _buffers(leaf).items():
            leaf._buffers[key] = _empty_like(value)
        set_values()
    for key, original in built.items():
        current = leaf._parameters[key]
        assert current is not None
        value = current.detach().to(device, dtype if current.is_floating_point() else current.dtype)
        leaf._parameters[key] = ties.resolve(original, nn.Parameter(value, requires_grad=original.requires_grad))
    for key, buffer in _buffers(leaf).items():
        leaf._buffers[key] = buffer.to(device, dtype if buffer.is_floating_point() else buffer.dtype)


def _buffers(leaf: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in leaf._buffers.items() if value is not None}


def _empty_like(value: Tensor) -> Tensor:
    """On the CPU, in fp32 where `value` is wider: values are drawn the same for fp32 and fp64."""
    dtype = torch.float32 if value.dtype is torch.float64 else value.dtype
    return torch.empty(value.shape, dtype=dtype, device="cpu")


@torch.no_grad()
def _set_values(model: Model, root: nn.Module, name: str, leaf: nn.Module, weights: Callable[[str], Tensor] | None, seed: int) -> None:
    """Set the initial or pre-trained values of what `leaf` itself owns."""
    missing = {key for key, value in leaf._parameters.items() if value is not None} | set(_buffers(leaf))
    if weights is not None:
        for key in sorted(missing):
            target = leaf._parameters.get(key)
            target = leaf._buffers[key] if target is None else target
            try:
                value = weights(f"{name}.{key}" if name else key)
            except KeyError:
                continue
            assert target is not None
            target.copy_(value)
            missing.remove(key)
    unknown = sorted(f"{name}.{key}" for key in missing - _buffers(leaf).keys())
    if unknown and weights is not None:
        raise ConfigError(f"the pre-trained weights have no value for {', '.join(unknown)}; is it another model's file?")
    if missing:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(seed, name))
            model.initialise(root, leaf)
