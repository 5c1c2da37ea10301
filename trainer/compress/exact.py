"""Products of integers, computed as such: the same on every device, in any order."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_INPUTS = (2**31 - 1) // (255 * 127)
"""Inputs of a layer whose sums, of levels less their zero point times weights, fit in int32 whatever they are."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """(tokens, outputs) of int32: x (tokens, inputs) times weight (outputs, inputs) transposed, both of int8."""
    if x.device.type == "cpu" and weight.shape[1] > 1:  # with one input, what PyTorch 2.13 gives is wrong
        return torch._int_mm(x, weight.t())
    return padded_product(x, weight)


def padded_product(x: Tensor, weight: Tensor) -> Tensor:
    """`product` where the library takes only more than 16 tokens, and multiples of 8 inputs and outputs (cuBLAS)."""
    tokens, inputs = x.shape
    outputs = len(weight)
    x = F.pad(x, (0, -inputs % 8, 0, max(17 - tokens, 0)))
    weight = F.pad(weight, (0, -inputs % 8, 0, -outputs % 8))
    return torch._int_mm(x, weight.t())[:tokens, :outputs]


class Window(NamedTuple):
    """Which elements of its input each output of a convolution is made from."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    around: list[int]
    """As `F.pad` takes it."""
    mode: str

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        return cls(conv.stride, conv.dilation, list(conv._reversed_padding_repeated_twice), "constant" if conv.padding_mode == "zeros" else conv.padding_mode)

    def padded(self, x: Tensor, value: float = 0.0) -> Tensor:
        """x (images, channels, height, width) with what stands around it."""
        return F.pad(x, self.around, self.mode, value if self.mode == "constant" else None)

    def convolution(self, padded: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(padded, weight, None, self.stride, 0, self.dilation)  # type: ignore[arg-type]

    def sums(self, padded: Tensor, weight: Tensor) -> Tensor:
        """(images, outputs, height, width) of int32: the convolution of integers, both of int8, an image at a time."""
        outputs, kernel = len(weight), weight.shape[2:]
        flat = weight.flatten(1)
        size = [(padded.shape[2 + i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1 for i in (0, 1)]
        found = torch.empty((len(padded), outputs, *size), dtype=torch.int32, device=padded.device)
        for image, out in zip(padded, found, strict=True):
            channel, *steps = image.stride()
            strides = (*(steps[i] * self.stride[i] for i in (0, 1)), channel, *(steps[i] * self.dilation[i] for i in (0, 1)))
            patches = image.as_strided((*size, len(image), *kernel), strides).reshape(size[0] * size[1], -1)
            out.copy_(product(patches, flat).t().view(outputs, *size))
        return found


class Straight(torch.autograd.Function):
    """`instead` of x, with its gradient going to x, where it `passes`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, instead: Tensor, passes: Tensor | None) -> Tensor:
        ctx.passes = passes
        return instead

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad if ctx.passes is None else grad * ctx.passes, None, None
