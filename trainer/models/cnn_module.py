"""The module of `model=cnn`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.cnn import GROUPS
from trainer.models.inputs import as_taken


class Stage(nn.Module):
    """A residual block of two 3 x 3 convolutions; the first has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, height, width)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ConvNet(nn.Module):
    """Stages, the mean over the image, and a linear layer."""

    def __init__(self, inputs: int, channels: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        widths = [inputs, *channels]
        self.stages = nn.ModuleList(Stage(widths[i], widths[i + 1], 1 if i == 0 else 2) for i in range(len(channels)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width); returns (batch, classes)."""
        x = as_taken(x, self.head)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.dropout(x.mean((2, 3))))


def applications(module: nn.Module, height: int, width: int) -> Iterator[tuple[int, int]]:
    """(number of weights, positions they are applied at) of every convolution and linear layer."""
    for stage in module.stages:  # type: ignore[union-attr]
        stride = stage.conv1.stride[0]
        height, width = -(-height // stride), -(-width // stride)
        for conv in (stage.conv1, stage.conv2, stage.shortcut):
            yield conv.weight.numel(), height * width
    yield module.head.weight.numel(), 1  # type: ignore[union-attr]
