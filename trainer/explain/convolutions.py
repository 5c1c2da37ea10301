"""The convolutions of a model, compressed ones too, and which of them sees a picture last."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainer.compress.form import CompressedLayer
from trainer.errors import ConfigError
from trainer.explain.calls import calls


def is_convolution(module: nn.Module) -> bool:
    """Whether `module` itself convolves pictures."""
    return isinstance(module, nn.Conv2d) or (isinstance(module, CompressedLayer) and getattr(module, "window", None) is not None)


def last_convolution(module: nn.Module, forward: Callable[[], object], coarsest: bool = False) -> nn.Module:
    """The convolution, or the block of them with a sum at its end, that comes last when `forward()` runs `module`.

    Left out are what only stands for its parts, and what gives the model's outputs. coarsest: of those of the lowest resolution.

    Raises:
        ConfigError: there is none.
    """
    ended = calls([("", module), *((name, layer) for name, layer in module.named_modules() if name and _convolves(layer))], forward)
    outputs = [call.output for call in ended if call.layer is module]
    inner = [(call.layer, call.output[0, 0].numel()) for call in ended if call.output.ndim == 4 and all(call.output is not one for one in outputs)]
    least = min((pixels for _, pixels in inner), default=0)
    for layer, pixels in reversed(inner):
        if not coarsest or pixels == least:
            return layer
    raise ConfigError(f"explain=gradcam: {type(module).__name__} has no convolution before its outputs; give explain.gradcam.layer")


def _convolves(module: nn.Module) -> bool:
    return not isinstance(module, nn.Sequential) and any(is_convolution(part) for part in module.modules())
