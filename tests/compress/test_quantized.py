"""What layers of integers give, against the same in int64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.quantize import Kind
from trainer.compress.quantized import Dynamic, Int4Linear, Int8, Static, pack4, unpack4
from trainer.compress.rounding import grid, of_range, round_rows, values_of

LINEAR: tuple[Any, tuple[int, ...]] = (nn.Linear(24, 7), (2, 5, 24))
CONV: tuple[Any, tuple[int, ...]] = (nn.Conv2d(3, 7, 3, stride=2, padding=1), (2, 3, 9, 8))


@torch.no_grad()
def filled(layer_class: type[Int8], original: Any) -> Int8:
    """The layer that stands for `original`, with the values that quantization gives it."""
    found = round_rows(original.weight.flatten(1), grid(Kind.int8, original.weight[0].numel(), 1))
    layer = layer_class.replacing(original)
    layer.weight.copy_(found.integers.view_as(layer.weight))
    layer.scale.copy_(found.scale.flatten())
    assert layer.bias is not None
    layer.bias.copy_(original.bias)
    if isinstance(layer, Static):
        layer.weight_sums.copy_(found.integers.sum(1))
        layer.input_scale, layer.input_zero_point = of_range(torch.tensor(-1.5), torch.tensor(4.0))
    return layer


def inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, shape[0]).view(-1, *(1,) * (len(shape) - 1))


def exact(layer: Int8, original: nn.Module, integers: Tensor) -> Tensor:
    """Products in int64 of integers, (those of the inputs less the zero point), summed over each output's."""
    if isinstance(original, nn.Conv2d):  # float64 is exact up to 2^53
        return F.conv2d(integers.double(), layer.weight.double(), None, original.stride, original.padding).long()  # type: ignore[arg-type]
    return integers.long() @ layer.weight.long().t()


@pytest.mark.parametrize(("original", "shape"), [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("layer_class", [Dynamic, Static])
def test_integers_are_multiplied_exactly(layer_class, original: Any, shape: tuple[int, ...]) -> None:
    layer: Any = filled(layer_class, original)
    x = inputs(shape)
    if layer_class is Dynamic:  # one scale a token, or an image
        scale: Tensor = x.abs().amax(-1 if len(shape) == 3 else (1, 2, 3), keepdim=True) / 127
        integers = (x / scale).round()
    else:
        scale, zero_point = layer.input_scale, layer.input_zero_point
        integers = ((x / scale).round() + zero_point).clamp(-128, 127) - zero_point
        assert (integers.max() - integers.min()).item() == 255  # some is beyond the range, on either side
    levels, _, zero = layer.levels(x)
    sums = layer.sums(levels, zero)
    expected = exact(layer, original, integers)
    assert sums.dtype == torch.int32
    assert torch.equal(sums.long(), expected)
    by_output = (lambda values: values) if len(shape) == 3 else (lambda values: values.view(-1, 1, 1))
    assert torch.equal(layer(x), expected.float() * scale * by_output(layer.scale) + by_output(layer.bias))


@pytest.mark.parametrize(("original", "shape"), [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize(("layer_class", "within"), [(Int8, 0.01), (Dynamic, 0.02), (Static, 0.02)])
def test_what_comes_out_is_near_what_the_plain_layer_gives(layer_class, within: float, original: Any, shape: tuple[int, ...]) -> None:
    x = inputs(shape).clamp(-1.5, 4.0)
    expected = original(x)
    for dtype in (torch.float32, torch.bfloat16):
        found = filled(layer_class, original)(x.to(dtype))
        assert found.dtype == dtype
        slack = within if dtype is torch.float32 else within + 0.01
        assert torch.linalg.vector_norm(found.float() - expected) < slack * torch.linalg.vector_norm(expected)


def test_two_integers_of_4_bits_are_in_a_byte() -> None:
    digits = torch.arange(32, dtype=torch.uint8).view(2, 16) % 16
    assert pack4(digits)[0, :2].tolist() == [0x10, 0x32]
    assert torch.equal(unpack4(pack4(digits), torch.uint8), digits)


@torch.no_grad()
@pytest.mark.parametrize("group_size", [4, 24])
def test_int4_computes_with_what_its_integers_stand_for(group_size: int) -> None:
    original = nn.Linear(24, 7)
    to = grid(Kind.int4, 24, group_size)
    found = round_rows(original.weight, to)
    layer = Int4Linear.replacing(original, group_size=group_size)
    layer.weight.copy_(pack4(found.integers))
    layer.scale.copy_(found.scale)
    layer.zero_point.copy_(found.zero_point)
    layer.bias.copy_(original.bias)  # type: ignore[union-attr]
    x = inputs((2, 5, 24))
    assert torch.equal(layer(x), F.linear(x, values_of(found, to), original.bias))
    assert layer.weight.nbytes == original.weight.numel() / 2
    numbers = layer.meant(dict(layer.named_parameters()))["weight"].view(7, -1, group_size)
    assert torch.equal(numbers * layer.scale.unsqueeze(-1), values_of(found, to).view_as(numbers))
