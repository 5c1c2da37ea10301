"""python -m trainer.compress.numerics: what minimal filtering (compress=[winograd]) saves in multiplications, and what it costs in precision."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compress.tiles import TRANSFORMS, convolve, convolve_int8, multiplications, weights_of
from trainer.units import aligned

CHANNELS, SIZE = 64, (56, 56)
SIZES = ((56, 56), (28, 28), (14, 14), (13, 13), (7, 7), (5, 8))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def main() -> int:
    """Print both tables."""
    print("multiplications of a 3x3 convolution / of the products of tiles, whole tiles at ragged edges")
    rows = [(f"{height} x {width}", *(f"{_fewer(tile, (height, width)):.2f}" for tile in TRANSFORMS)) for height, width in SIZES]
    print(aligned([("output", *_heads()), *rows], {0}))
    print(f"\nerror against float64, norm of the difference as a share of the norm: {CHANNELS} channels in and out, {SIZE[0]} x {SIZE[1]}, normal values")
    print(aligned([("arithmetic", "torch.conv2d", *_heads()), *errors()], {0}))
    return 0


def errors() -> list[tuple[str, ...]]:
    """Of each arithmetic the error of `torch.conv2d`, and with tiles of each size."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((1, CHANNELS, *SIZE), (CHANNELS, CHANNELS, 3, 3)))
    rows = []
    for dtype in DTYPES:
        images, kernels = x.to(dtype), weight.to(dtype)
        right = F.conv2d(images.to(torch.float64), kernels.to(torch.float64), padding=1)  # of the rounded values: the arithmetic alone
        found = [F.conv2d(images, kernels, padding=1), *(convolve(images, weights_of(kernels, tile), (1, 1), tile) for tile in TRANSFORMS)]
        rows.append((str(dtype).removeprefix("torch."), *(f"{_error(one, right):.1e}" for one in found)))
    right = F.conv2d(x, weight, padding=1)
    for per_position, told in ((False, "int8, one scale"), (True, "int8, a scale for each position")):
        found = [convolve_int8(x, weights_of(weight, tile), (1, 1), tile, per_position=per_position) for tile in TRANSFORMS]
        rows.append((told, "–", *(f"{_error(one, right):.1e}" for one in found)))
    return rows


def _error(found: Tensor, right: Tensor) -> float:
    return float(torch.linalg.vector_norm(found.to(torch.float64) - right) / torch.linalg.vector_norm(right))


def _fewer(tile: int, size: tuple[int, int]) -> float:
    of_convolution, of_tiles = multiplications(tile, size)
    return of_convolution / of_tiles


def _heads() -> list[str]:
    return [f"F({tile}x{tile},3x3)" for tile in TRANSFORMS]


if __name__ == "__main__":
    sys.exit(main())
