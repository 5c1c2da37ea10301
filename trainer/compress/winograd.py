"""`winograd`: 3x3 convolutions with fewer multiplications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from trainer.compress.subject import Change, Subject


@dataclass(kw_only=True)
class Winograd(Compressor):
    """Minimal filtering F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308) of 3x3 convolutions with stride 1. The weights
    stay as they are."""

    ends: ClassVar[str] = "leaves a form that another would take the place of"

    tile: int = 4
    """Outputs along one side of a tile: 2, with 2.25 times fewer multiplications, or 4, with 4 times fewer and a greater rounding error."""

    def validate(self) -> None:
        if self.tile not in (2, 4):
            raise ConfigError(f"compress.winograd.tile={self.tile}: must be 2 or 4")

    def chosen(self, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        from trainer.compress.tiles import eligible

        return {name: layer for name, layer in super().chosen(layers).items() if eligible(layer)}

    def check(self, layers: Mapping[str, nn.Module], key: str) -> None:
        if not self.chosen(layers):
            raise ConfigError(
                f"{key}: none of the {len(super().chosen(layers))} chosen layers of the model (of {len(layers)}) is a 3x3 convolution with stride 1, "
                "dilation 1 and one group, padded with zeros; leave it out, or choose other layers"
            )

    def run(self, subject: Subject) -> Change:
        from trainer.compress.tiled import tile

        return tile(subject, self)
