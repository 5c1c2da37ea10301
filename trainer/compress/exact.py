"""Activations as integers, and products of integers computed as such: the same on every device, in any order."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_INPUTS = (2**31 - 1) // (255 * 127)
"""Inputs of a layer whose sums, of levels less their zero point times weights, fit in int32 whatever they are."""

LEVELS = 127
PATCHES = 2**24  # bytes of patches of images that a convolution makes at a time


def to_levels(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Integers in [-127, 127], as floats, and the scale with which they are `x`, in fp32: one for all of `dims`."""
    wide = x.to(torch.float32)
    scale = wide.abs().amax(dims, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny * LEVELS) / LEVELS
    return (wide / scale).round(), scale


def one_scale(x: Tensor, conv: bool) -> tuple[int, ...]:
    """The dimensions of `x` that share a scale: a token's inputs, or an image."""
    return tuple(range(1, x.ndim)) if conv else (-1,)


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

    def padded(self, x: Tensor) -> Tensor:
        """x (images, channels, height, width) with what stands around it."""
        return F.pad(x, self.around, self.mode)

    def convolution(self, padded: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(padded, weight, None, self.stride, 0, self.dilation)  # type: ignore[arg-type]

    def sums(self, padded: Tensor, weight: Tensor) -> Tensor:
        """(images, outputs, height, width) of int32, channels last in memory: the convolution of integers, both of int8."""
        outputs, channels, *kernel = weight.shape
        flat = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
        size = [(padded.shape[2 + i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1 for i in (0, 1)]

        def of(images: Tensor) -> Tensor:
            last = images.permute(0, 2, 3, 1).contiguous()  # patches are then copied whole rows of channels at a time
            image, *steps, _ = last.stride()
            strides = (image, *(steps[i] * self.stride[i] for i in (0, 1)), *(steps[i] * self.dilation[i] for i in (0, 1)), 1)
            patches = last.as_strided((len(images), *size, *kernel, channels), strides).reshape(-1, flat.shape[1])
            return product(patches, flat).view(len(images), *size, outputs)

        if torch.compiler.is_exporting():  # for any number of images
            return of(padded).permute(0, 3, 1, 2)
        at_once = max(1, PATCHES // (size[0] * size[1] * flat.shape[1]))
        found = torch.empty((len(padded), *size, outputs), dtype=torch.int32, device=padded.device)
        for images, out in zip(padded.split(at_once), found.split(at_once), strict=True):
            out.copy_(of(images))
        return found.permute(0, 3, 1, 2)


class Straight(torch.autograd.Function):
    """`instead` of x, with its gradient going to x, where it `passes`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, instead: Tensor, passes: Tensor | None) -> Tensor:
        ctx.passes = passes
        return instead

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad if ctx.passes is None else grad * ctx.passes, None, None
