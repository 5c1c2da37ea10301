"""`model=cnn`: a small residual convolutional network for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.supervised import SupervisedModel

if TYPE_CHECKING:
    from torch import nn

GROUPS = 8


@dataclass(kw_only=True)
class CNN(SupervisedModel):
    """Stages of one residual block each, halving the image between stages.

    Normalised by groups of channels within each sample (Wu and He 2018, arXiv:1803.08494): batch
    normalisation would mix samples, and the loss would depend on how a batch is cut over ranks.
    """

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Channels of each stage, multiples of 8."""
    dropout: float = 0.0
    """Before the last layer."""

    def validate(self) -> None:
        super().validate()
        if not self.channels or any(width < 1 or width % GROUPS for width in self.channels):
            raise ConfigError(f"model.channels={self.channels}: give one or more multiples of {GROUPS}")

    def check(self, spec: Mapping[str, Any]) -> None:
        if "height" not in spec:
            raise ConfigError(f"model=cnn needs images, but the data has {', '.join(sorted(spec))}. Choose data=images, or another model")
        smallest = min(int(spec["height"]), int(spec["width"]))
        if smallest < 2 ** (len(self.channels) - 1):
            raise ConfigError(
                f"model.channels={self.channels}: {len(self.channels)} stages halve an image of {spec['height']} x {spec['width']} away; "
                f"give at most {smallest.bit_length()}"
            )

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.cnn_module import ConvNet

        return ConvNet(int(spec["channels"]), self.channels, int(spec["classes"]), self.dropout)

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return list(module.stages)  # type: ignore[arg-type]

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Per image: 6 per weight and position at which a convolution applies it."""
        from trainer.models.cnn_module import applications

        total = 6.0 * sum(numel * times for numel, times in applications(module, int(spec["height"]), int(spec["width"])))
        return total, "6 x weights x positions"
