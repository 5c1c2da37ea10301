"""Which layers of a model are called with what: found by running it, so that no model has to name its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """One call of a layer that gave a tensor."""

    name: str
    layer: nn.Module
    given: tuple[Any, ...]
    """Positional and named arguments."""
    output: Tensor


def calls(layers: Iterable[tuple[str, nn.Module]], forward: Callable[[], object]) -> list[Call]:
    """Those of `layers`, names and modules, that `forward()` makes, in the order in which they end."""
    found: list[Call] = []

    def note(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(Call(name, layer, (*args, *kwargs.values()), output))

    handles = [layer.register_forward_hook(partial(note, name), with_kwargs=True) for name, layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found
