"""`winograd` on a model: its layers, its figures, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import ranks, tiny
from tests.compress import small
from tests.tiny import VOCAB, Tiny
from trainer.compress.form import replace
from trainer.compress.tiled import WinogradConv2d, figures, tile
from trainer.compress.winograd import Winograd
from trainer.errors import ConfigError
from trainer.strategies.single import Single


class Strip(nn.Module):
    """Tokens as an image, two convolutions, and scores of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 5)
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.strided = nn.Conv2d(6, 6, 3, stride=(1, 2), padding=1)
        self.head = nn.Linear(18, VOCAB)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        y = self.strided(torch.relu(self.first(self.embed(input_ids).unsqueeze(1))))
        return F.cross_entropy(self.head(y.transpose(1, 2).flatten(2)).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


@dataclass(kw_only=True)
class StripModel(Tiny):
    def build(self, spec: Any) -> nn.Module:
        return Strip()

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        return []


def winograd_on_rank() -> tuple[dict[str, Any], dict[str, Any]]:
    change = tile(small.subject(tiny.config(Single(), model=StripModel())), Winograd(tile=4))
    return change.forms, change.told


def test_eligible_layers_take_the_form_and_have_the_same_figures_on_every_rank() -> None:
    (alone,) = ranks.run(1, winograd_on_rank)
    forms, told = alone
    assert forms == {"first": {"layer": "trainer.compress.tiled.WinogradConv2d", "tile": 4}}
    assert told["first"]["multiplications"] == 6 * 1 * 6 * 5 * 9  # the image is 6 tokens by 5
    assert told["first"]["with winograd"] == 6 * 1 * 2 * 2 * 36
    assert 1e-8 < told["first"]["error"] < 1e-5
    for found, others in ranks.run(2, winograd_on_rank):
        assert found == forms
        assert others["first"] == pytest.approx(told["first"], rel=1e-6)


@pytest.mark.parametrize("size", [2, 4])
def test_layer_in_place_computes_and_trains_as_the_plain_one(size: int) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64))
    fast = replace(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), {"0": WinogradConv2d.form(tile=size)}).double()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    for module in (plain, fast):
        module(x).square().sum().backward()
    torch.testing.assert_close(fast(x), plain(x))
    for found, right in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, right.grad)


def test_kept_weights_are_not_used_once_the_weights_change() -> None:
    layer = WinogradConv2d.replacing(nn.Conv2d(3, 4, 3, padding=1), tile=4)
    x = torch.randn(1, 3, 8, 8)
    layer.for_inference()
    with torch.no_grad():
        kept = layer._kept
        assert kept is not None
        assert layer._weights() is kept[2]
        before = layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x) - layer.bias.view(-1, 1, 1), 2 * (before - layer.bias.view(-1, 1, 1)), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    layer.for_inference()
    layer(x).sum().backward()  # a pass that is differentiated reaches the weight
    assert layer.weight.grad is not None


def test_figures_of_a_layer_are_relative_to_fp64() -> None:
    torch.manual_seed(0)
    found = figures(torch.randn(1, 32, 16, 16), torch.randn(16, 32, 3, 3), (1, 1), 4)
    assert found["times fewer"] == 4
    assert found["error of conv2d"] < found["error"] < 3e-6
    assert found["int8: conv2d"] < 0.03 < found["int8: scale per position"] < 0.2 < 1 < found["int8: one scale"]


def test_a_model_without_such_convolutions_is_refused() -> None:
    layers = {"a": nn.Linear(3, 3), "b": nn.Conv2d(3, 3, 3, stride=2), "c": nn.Conv2d(3, 3, 3)}
    Winograd().check(layers, "compress.winograd")
    with pytest.raises(ConfigError, match=r"^compress\.winograd: none of the 2 chosen layers of the model \(of 3\) is a 3x3 convolution"):
        Winograd(exclude=["c"]).check(layers, "compress.winograd")


def test_tiles_of_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^compress\.winograd\.tile=3: must be 2 or 4"):
        Winograd(tile=3).validate()
