"""What goes into a layer, whatever form that has."""

from __future__ import annotations

from torch import Tensor, nn


def as_taken(x: Tensor, layer: nn.Module) -> Tensor:
    """`x` in the dtype that `layer` computes in: of its floating parameters, beside which a compressed one holds integers."""
    return x.to(next((value.dtype for value in layer.parameters() if value.is_floating_point()), x.dtype))
