"""The module of `model=craft`, with the names of the published checkpoint (without their `module.`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on which the backbone was trained


class FixedNorm(nn.BatchNorm2d):
    """Normalises by the running statistics, in training too: no statistics of a batch, which would mix samples and differ from rank to rank."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, input: Tensor) -> Tensor:
        """In the dtype of the statistics, which sharding in mixed precision leaves as they are while it casts the parameters."""
        assert self.running_mean is not None
        if self.weight.dtype == self.running_mean.dtype:
            return super().forward(input)
        weight, bias = (value.to(self.running_mean.dtype) for value in (self.weight, self.bias))
        return F.batch_norm(input, self.running_mean, self.running_var, weight, bias, eps=self.eps)


class Backbone(nn.Module):
    """VGG16 with batch normalisation (Simonyan and Zisserman 2014, arXiv:1409.1556), cut where features are taken; `slice5` stands for its linear layers.

    Indices are those of the layers in VGG16. The published network takes the features before a ReLU that
    works in place, so all but the last are after it: here the ReLU is applied, and then the feature is taken.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.slice1 = nn.Sequential(OrderedDict([*_conv(0, 3, c), *_conv(3, c, c), _pool(6), *_conv(7, c, 2 * c), *_conv(10, 2 * c, 2 * c)]))
        self.slice2 = nn.Sequential(OrderedDict([_pool(13), *_conv(14, 2 * c, 4 * c), *_conv(17, 4 * c, 4 * c)]))
        self.slice3 = nn.Sequential(OrderedDict([*_conv(20, 4 * c, 4 * c), _pool(23), *_conv(24, 4 * c, 8 * c), *_conv(27, 8 * c, 8 * c)]))
        last = list(_conv(37, 8 * c, 8 * c))[:-1]
        self.slice4 = nn.Sequential(OrderedDict([*_conv(30, 8 * c, 8 * c), _pool(33), *_conv(34, 8 * c, 8 * c), *last]))
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(8 * c, 16 * c, 3, padding=6, dilation=6), nn.Conv2d(16 * c, 16 * c, kernel_size=1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (batch, 3, height, width); returns features of 1/16 (twice), 1/8, 1/4 and 1/2 of its size, the deepest first."""
        found: list[Tensor] = []
        for part in (self.slice1, self.slice2, self.slice3, self.slice4, self.slice5):
            x = part(x)
            found.insert(0, x)
        return found


class UpConv(nn.Module):
    """Brings the channels of two features together."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(inputs, middle, 1), FixedNorm(middle), nn.ReLU(), nn.Conv2d(middle, outputs, 3, padding=1), FixedNorm(outputs), nn.ReLU()]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.conv(torch.cat([x, other], dim=1))


class CraftNet(nn.Module):
    """Region and affinity score of every second pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.basenet = Backbone(c)
        self.upconv1 = UpConv(24 * c, 8 * c, 4 * c)
        self.upconv2 = UpConv(12 * c, 4 * c, 2 * c)
        self.upconv3 = UpConv(6 * c, 2 * c, c)
        self.upconv4 = UpConv(3 * c, c, c // 2)
        head: list[nn.Module] = []
        widths = (c // 2, c // 2, c // 2, c // 4, c // 4)
        for inputs, outputs, kernel in zip(widths, widths[1:], (3, 3, 3, 1), strict=False):
            head += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]
        self.conv_cls = nn.Sequential(*head, nn.Conv2d(c // 4, 2, kernel_size=1))

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, 3, height, width) in [0, 1]; returns (batch, 2, height / 2, width / 2): region and affinity scores, about 0 to 1."""
        dtype = next(self.conv_cls.parameters()).dtype
        mean, std = (torch.tensor(values, dtype=dtype, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
        deepest, *others = self.basenet((images.to(dtype) - mean) / std)
        y = self.upconv1(deepest, others[0])
        for up, feature in zip((self.upconv2, self.upconv3, self.upconv4), others[1:], strict=True):
            y = up(F.interpolate(y, size=feature.shape[2:], mode="bilinear", align_corners=False), feature)
        return self.conv_cls(y)


def _conv(index: int, inputs: int, outputs: int) -> Iterator[tuple[str, nn.Module]]:
    yield str(index), nn.Conv2d(inputs, outputs, 3, padding=1)
    yield str(index + 1), FixedNorm(outputs)
    yield str(index + 2), nn.ReLU()


def _pool(index: int) -> tuple[str, nn.Module]:
    return str(index), nn.MaxPool2d(2)


STRIDES: Mapping[str, int] = {
    **{f"basenet.slice1.{index}": 1 for index in (0, 3)},
    **{f"basenet.slice1.{index}": 2 for index in (7, 10)},
    **{f"basenet.slice2.{index}": 4 for index in (14, 17)},
    "basenet.slice3.20": 4,
    **{f"basenet.slice3.{index}": 8 for index in (24, 27)},
    "basenet.slice4.30": 8,
    **{f"basenet.slice4.{index}": 16 for index in (34, 37)},
    **{f"basenet.slice5.{index}": 16 for index in (1, 2)},
    **{f"upconv{number}.conv.{index}": stride for number, stride in ((1, 16), (2, 8), (3, 4), (4, 2)) for index in (0, 3)},
    **{f"conv_cls.{index}": 2 for index in (0, 2, 4, 6, 8)},
}
"""By how much the image is smaller where each convolution works."""


def applications(module: nn.Module, height: int, width: int) -> Iterator[tuple[int, int]]:
    """(number of weights, positions that they are applied at) of every convolution."""
    for name, stride in STRIDES.items():
        yield module.get_submodule(name).weight.numel(), (height // stride) * (width // stride)  # type: ignore[union-attr, operator]
