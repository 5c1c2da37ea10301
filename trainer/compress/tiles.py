"""Convolution by minimal filtering: transforms of tiles and weights, products of what they become, and the way back.

The arithmetic is Lavin and Gray's (2015, arXiv:1509.09308, sections 4.1 to 4.3): Y = A^T [(G g G^T) * (B^T d B)] A for
each tile d of inputs, tiles overlapping by two, and each kernel g, summed over the input channels in between.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.exact import to_levels

KERNEL = 3
AT_ONCE = 2**22  # bytes of images in tiles that are there at a time: in a cache, and not all of a batch


class Transforms(NamedTuple):
    """Matrices for tiles of m x m outputs, n = m + 2."""

    inputs: list[list[float]]
    """B^T (n, n)."""
    weights: list[list[float]]
    """G (n, 3)."""
    outputs: list[list[float]]
    """A^T (m, n)."""


TRANSFORMS = {
    2: Transforms(
        inputs=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        weights=[[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        outputs=[[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: Transforms(
        inputs=[
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        weights=[[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        outputs=[[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}


def eligible(layer: nn.Module) -> bool:
    """Whether `layer` is a convolution that this arithmetic is for."""
    return (
        isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((KERNEL, KERNEL), (1, 1), (1, 1), 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def weights_of(weight: Tensor, tile: int) -> Tensor:
    """(outputs, inputs, 3, 3) to (n * n, outputs, inputs), n = tile + 2."""
    outputs, inputs = weight.shape[:2]
    return (_both_ways("weights", tile, weight) @ weight.reshape(-1, KERNEL * KERNEL).t()).view(-1, outputs, inputs)


def inputs_of(x: Tensor, tile: int, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """(images, channels, height, width) to (n * n, channels, tiles), and the size of the outputs. Ragged edges are filled with zeros."""
    images, channels = x.shape[:2]
    size = (x.shape[2] + 2 * padding[0] - KERNEL + 1, x.shape[3] + 2 * padding[1] - KERNEL + 1)
    down, across = (-(-extent // tile) for extent in size)
    n = tile + KERNEL - 1
    more = (down * tile - size[0], across * tile - size[1])
    filled = F.pad(x, (padding[1], padding[1] + more[1], padding[0], padding[0] + more[0]))
    tiles = filled.unfold(2, n, tile).unfold(3, n, tile).permute(4, 5, 1, 0, 2, 3).reshape(n * n, channels * images * down * across)
    return (_both_ways("inputs", tile, x) @ tiles).view(n * n, channels, images * down * across), size


def outputs_of(products: Tensor, tile: int, images: int, size: tuple[int, int]) -> Tensor:
    """(n * n, channels, tiles) to (images, channels, *size): without what the ragged edges were filled up to."""
    channels = products.shape[1]
    down, across = (-(-extent // tile) for extent in size)
    y = (_both_ways("outputs", tile, products) @ products.flatten(1)).view(tile, tile, channels, images, down, across)
    return y.permute(3, 2, 4, 0, 5, 1).reshape(images, channels, down * tile, across * tile)[:, :, : size[0], : size[1]]


def convolve(x: Tensor, weights: Tensor, padding: tuple[int, int], tile: int) -> Tensor:
    """What `F.conv2d` gives with stride 1, for what `weights_of` gives of its weight."""
    in_tiles = x[:1].nbytes * (tile + KERNEL - 1) ** 2 // tile**2
    return torch.cat([_at_once(images, weights, padding, tile) for images in x.split(max(1, AT_ONCE // max(1, in_tiles)))])


def _at_once(x: Tensor, weights: Tensor, padding: tuple[int, int], tile: int) -> Tensor:
    tiles, size = inputs_of(x, tile, padding)
    return outputs_of(weights @ tiles, tile, len(x), size)


def convolve_int8(x: Tensor, weights: Tensor, padding: tuple[int, int], tile: int, *, per_position: bool) -> Tensor:
    """`convolve` with both factors of the products in int8, and one scale each, or one each for every position in a tile.

    Positions of a tile of 6 x 6 differ in size by orders of magnitude: with one scale for all, most of them are left a few levels.
    """
    dims = (1, 2) if per_position else (0, 1, 2)
    tiles, size = inputs_of(x, tile, padding)
    (left, left_scale), (right, right_scale) = to_levels(weights, dims), to_levels(tiles, dims)
    sums = left.to(torch.float64) @ right.to(torch.float64)  # exact, as integers are
    return outputs_of((sums * left_scale * right_scale).to(x.dtype), tile, len(x), size)


def multiplications(tile: int, size: tuple[int, int]) -> tuple[int, int]:
    """(of the convolution as defined, of the products here) for each pair of channels and an output of `size`, with whole tiles at ragged edges.
    Transforms, whose cost is shared by all channels of the other side, are not among them, as in Lavin and Gray's count."""
    down, across = (-(-extent // tile) for extent in size)
    return size[0] * size[1] * KERNEL**2, down * across * (tile + KERNEL - 1) ** 2


def _both_ways(which: str, tile: int, like: Tensor) -> Tensor:
    """The transform of both dimensions of a tile that is laid out flat."""
    return KRONECKER[tile, which].to(like)


def _kronecker(rows: list[list[float]]) -> Tensor:
    matrix = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return torch.kron(matrix, matrix)


# Not in the first pass, which may be one over tensors without values.
KRONECKER = {(tile, which): _kronecker(rows) for tile, transforms in TRANSFORMS.items() for which, rows in transforms._asdict().items()}
