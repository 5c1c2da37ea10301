"""A model with fewer channels than it was built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.around import Around

if TYPE_CHECKING:
    from torch import nn


@dataclass(kw_only=True)
class Slim(Around):
    """`base` with layers of other widths. Its values are those of a checkpoint."""

    widths: dict[str, Any] = field(default_factory=dict)
    """Full name of a layer to [outputs, inputs], or for a normalisation to [channels]."""

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        module = self.base.build(spec)
        for name, widths in self.widths.items():
            try:
                layer = module.get_submodule(name)
            except AttributeError:
                raise ConfigError(f"model.widths.{name}: the model has no such layer") from None
            _resize(layer, *widths)
        return module

    def weights(self) -> None:
        """None: those of `base` have other widths."""

    def hugging_face(self, spec: Mapping[str, Any]) -> None:
        """None: there are no such models there."""

    def identity(self) -> dict[str, Any]:
        return {"base": self.base.identity(), "widths": self.widths}

    def title(self) -> str:
        return f"{self.base.title()}, with fewer channels"


def _resize(layer: nn.Module, outputs: int, inputs: int | None = None) -> None:
    """Cut the parameters and buffers of `layer`, whose values are to be replaced."""
    from torch import nn

    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = outputs, inputs  # type: ignore[assignment]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = outputs, inputs  # type: ignore[assignment]
    else:
        layer.num_features = outputs  # type: ignore[assignment]
    for key, value in layer.named_parameters(recurse=False):
        rows = value.detach()[:outputs] if value.ndim == 1 else value.detach()[:outputs, :inputs]
        setattr(layer, key, nn.Parameter(rows.clone(), requires_grad=value.requires_grad))
    for key, buffer in layer.named_buffers(recurse=False):
        if buffer.ndim:
            layer._buffers[key] = buffer[:outputs].clone()
