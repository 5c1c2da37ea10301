"""Convolution by minimal filtering, against PyTorch's in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.tiles import AT_ONCE, convolve, convolve_int8, eligible, multiplications, weights_of

TILES = [2, 4]
F64 = torch.float64


def drawn(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def relative(found: Tensor, right: Tensor) -> float:
    return float(torch.linalg.vector_norm(found.to(F64) - right) / torch.linalg.vector_norm(right))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 2)])
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (8, 8), (11, 6)])
def test_outputs_are_those_of_a_convolution_also_at_ragged_edges(tile: int, padding: tuple[int, int], size: tuple[int, int]) -> None:
    x, weight = drawn(2, 3, *size), drawn(5, 3, 3, 3)
    torch.testing.assert_close(convolve(x, weights_of(weight, tile), padding, tile), F.conv2d(x, weight, padding=padding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
def test_gradients_are_those_of_a_convolution(tile: int) -> None:
    grads = []
    for of in (lambda x, w: convolve(x, weights_of(w, tile), (1, 1), tile), lambda x, w: F.conv2d(x, w, padding=1)):
        x, weight = drawn(2, 3, 7, 6).requires_grad_(), drawn(4, 3, 3, 3).requires_grad_()
        of(x, weight).backward(drawn(2, 4, 7, 6))
        grads.append((x.grad, weight.grad))
    for found, right in zip(*grads, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
def test_images_that_go_a_part_at_a_time_are_all_there(tile: int) -> None:
    x, weight = drawn(50, 8, 40, 40), drawn(2, 8, 3, 3)
    assert x.nbytes > AT_ONCE
    torch.testing.assert_close(convolve(x, weights_of(weight, tile), (1, 1), tile), F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)


# Lower and upper limits: an error that vanishes would mean that something else computes.
@pytest.mark.parametrize(
    ("tile", "dtype", "least", "most"),
    [
        (2, torch.float64, 1e-16, 3e-15),
        (2, torch.float32, 1.5e-7, 4e-7),
        (2, torch.float16, 3e-4, 1e-3),
        (2, torch.bfloat16, 2.5e-3, 8e-3),
        (4, torch.float64, 1e-15, 1e-14),
        (4, torch.float32, 1e-6, 2.5e-6),
        (4, torch.float16, 2e-3, 6e-3),
        (4, torch.bfloat16, 1.5e-2, 5e-2),
    ],
)
def test_errors_by_dtype(tile: int, dtype: torch.dtype, least: float, most: float) -> None:
    x, weight = drawn(1, 64, 17, 19, dtype=dtype), drawn(16, 64, 3, 3, dtype=dtype)
    right = F.conv2d(x.to(F64), weight.to(F64), padding=1)
    assert least < relative(convolve(x, weights_of(weight, tile), (1, 1), tile), right) < most


def test_one_int8_scale_breaks_tiles_of_four_and_one_per_position_mends_them() -> None:
    x, weight = drawn(1, 32, 16, 16), drawn(16, 32, 3, 3)
    right = F.conv2d(x, weight, padding=1)

    def off(tile: int, per_position: bool) -> float:
        return relative(convolve_int8(x, weights_of(weight, tile), (1, 1), tile, per_position=per_position), right)

    assert off(2, False) < 0.05
    assert off(4, False) > 1  # nothing is left of it
    assert off(4, True) < 0.2
    assert off(2, True) < off(2, False)


def test_multiplications_count_whole_tiles_at_ragged_edges() -> None:
    assert multiplications(2, (8, 8)) == (576, 256)  # 2.25 times
    assert multiplications(4, (8, 8)) == (576, 144)  # 4 times
    assert multiplications(4, (5, 8)) == (360, 144)  # 2.5 times
    assert multiplications(4, (1, 1)) == (9, 36)


@pytest.mark.parametrize(
    ("fits", "layer"),
    [
        (True, nn.Conv2d(2, 4, 3, padding=1)),
        (True, nn.Conv2d(2, 4, 3, padding=(0, 2), bias=False)),
        (False, nn.Conv2d(2, 4, 3, stride=2)),
        (False, nn.Conv2d(2, 4, 3, dilation=2)),
        (False, nn.Conv2d(2, 4, (3, 1))),
        (False, nn.Conv2d(2, 4, 3, groups=2)),
        (False, nn.Conv2d(2, 4, 3, padding="same")),
        (False, nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
        (False, nn.Linear(3, 3)),
    ],
)
def test_which_layers_it_is_for(fits: bool, layer: nn.Module) -> None:
    assert eligible(layer) is fits
