"""The convolutions of a model, compressed ones too, and which of them sees a picture last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.compress.form import CompressedLayer
from trainer.errors import ConfigError


def is_convolution(module: nn.Module) -> bool:
    """Whether `module` itself convolves pictures."""
    return isinstance(module, nn.Conv2d) or (isinstance(module, CompressedLayer) and getattr(module, "window", None) is not None)


def last_convolution(module: nn.Module, forward: Callable[[], object], coarsest: bool = False) -> nn.Module:
    """The convolution, or the block of them with a sum at its end, that comes last when `forward()` runs `module`.

    Left out are what only stands for its parts, and what gives the model's outputs. coarsest: of those of the lowest resolution.

    Raises:
        ConfigError: there is none.
    """
    ended: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            ended.append((layer, output))

    handles = [layer.register_forward_hook(note) for layer in module.modules() if _convolves(layer)]
    outputs: list[Any] = []
    handles.append(module.register_forward_hook(lambda layer, args, output: outputs.append(output)))
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    inner = [(layer, output[0, 0].numel()) for layer, output in ended if layer is not module and all(output is not one for one in outputs)]
    least = min((pixels for _, pixels in inner), default=0)
    for layer, pixels in reversed(inner):
        if not coarsest or pixels == least:
            return layer
    raise ConfigError(f"explain=gradcam: {type(module).__name__} has no convolution before its outputs; give explain.gradcam.layer")


def _convolves(module: nn.Module) -> bool:
    return not isinstance(module, nn.Sequential) and any(is_convolution(part) for part in module.modules())
