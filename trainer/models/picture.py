"""What a model sees in one sample, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture with boxes: left, top, right, bottom in its pixels."""

    image: Tensor
    """(3, height, width) in [0, 1]."""
    wanted: Tensor
    """(true boxes, 4)."""
    found: Tensor
    """(boxes, 5): with a score, the surest first."""
    right: Tensor
    """(boxes,): whether a box covers a true one, that no surer box has taken, at an IoU of 0.5 or more."""


@dataclass(frozen=True)
class Finding:
    """One thing that a detector finds in a picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the picture."""
    score: float
    margin: Callable[[Tensor], Tensor]
    """From the detector's outputs, (n, ...), to (n,): how sure it is of this one. Differentiable."""
