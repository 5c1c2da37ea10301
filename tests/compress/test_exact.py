"""Products of integers against int64, and against float64, which is exact for so few."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compress.exact import MAX_INPUTS, Window, padded_product, product, to_levels


def integers(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("multiply", [product, padded_product])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 1, 1), (3, 1, 2), (5, 33, 7), (5, 1030, 3), (40, 64, 48), (0, 8, 8)])
def test_a_product_is_exact(multiply, tokens: int, inputs: int, outputs: int) -> None:
    x, weight = integers(tokens, inputs), integers(outputs, inputs)
    found = multiply(x, weight)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), x.long() @ weight.long().t())
    assert torch.equal(multiply(x, F.pad(weight, (0, 3))[:, :inputs]), found)  # rows that do not follow each other


def test_levels_are_the_nearest_and_their_scale_is_the_greatest_of_each_token() -> None:
    x = torch.tensor([[0.0, 0.0], [1.016, -2.54], [127.0, 0.6]])
    levels, scale = to_levels(x, (-1,))
    assert levels.tolist() == [[0, 0], [51, -127], [127, 1]]
    torch.testing.assert_close(scale[1:], torch.tensor([[0.02], [1.0]]))
    assert to_levels(torch.tensor([[float("nan"), 1.0]]), (-1,))[1].isnan().all()  # and not lost in the integers


def test_the_largest_sums_that_are_allowed_fit() -> None:
    x = torch.full((1, MAX_INPUTS), -128, dtype=torch.int8)
    weight = torch.full((1, MAX_INPUTS), 127, dtype=torch.int8)
    less_zero_point = product(x, weight) - 127 * weight.sum(1, dtype=torch.int32)
    assert less_zero_point.item() == -255 * 127 * MAX_INPUTS
    assert 255 * 127 * (MAX_INPUTS + 1) > 2**31 - 1


CONVOLUTIONS = [{"padding": 1}, {"stride": 2}, {"stride": (1, 2), "padding": (2, 0)}, {"dilation": 2, "padding": 2, "padding_mode": "reflect"}]


@pytest.mark.parametrize("patches", [1, 2000, 2**24])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_a_convolution_of_integers_is_exact(shape, patches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.compress.exact.PATCHES", patches)
    conv = nn.Conv2d(3, 5, (3, 2), dtype=torch.float64, bias=False, **shape)
    x, weight = integers(3, 3, 9, 8), integers(5, 3, 3, 2)
    conv.weight.data = weight.double()
    window = Window.of(conv)
    assert torch.equal(window.sums(window.padded(x.double()).to(torch.int8), weight).double(), conv(x.double()))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_product_is_exact_on_the_gpu(tokens: int) -> None:
    x, weight = integers(tokens, 33), integers(7, 33)
    assert torch.equal(product(x.cuda(), weight.cuda()).cpu().long(), x.long() @ weight.long().t())
