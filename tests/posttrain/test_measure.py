"""What is measured of a model that is cut over ranks, and of layers that PyTorch's counter does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from tests import ranks, tiny
from trainer.checkpoint.save import write
from trainer.compress.binarized import PackedLinear
from trainer.compress.form import CompressedLayer
from trainer.compress.model import Compressed
from trainer.compress.quantized import Int4Linear
from trainer.posttrain import macs, values
from trainer.posttrain.measure import Spread, batch_size, sizes
from trainer.state import Position
from trainer.strategies.single import Single


class Shifted(CompressedLayer):
    """Stands for a layer with a kernel of its own."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(wide))

    @classmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        assert isinstance(original, nn.Linear)
        return cls(original.out_features)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Int8Product(Shifted):
    """Stands for a layer that multiplies integers."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).to(torch.int8)
        return torch._int_mm(rows, torch.ones(x.shape[-1], x.shape[-1], dtype=torch.int8)).to(x.dtype).view_as(x)


def measured(path: Path, form: dict[str, Any]) -> tuple[dict[str, int], macs.Counted]:
    """On each rank: sizes of a tiny model with `form` in the place of a layer, and products of a pass over one sample."""
    config = tiny.config(Single())
    samples = config.data.open("eval")
    model = Compressed(base=config.model, forms={"blocks.0.gate": form}) if form else config.model
    engine = values.without_values(model, config, samples, torch.device("cpu"))
    write(values.model_state(engine), Position(1, 1), path, {})
    return sizes(engine, path / "checkpoints" / "step-00000001"), macs.count(engine, model, samples.batch([0]))


@pytest.mark.parametrize("number", [1, 2])
def test_a_model_cut_over_ranks_is_measured_whole(tmp_path, number):
    found = ranks.run(number, measured, tmp_path, {})
    config = tiny.config(Single())
    module = config.model.build({})
    everything = sum(value.numel() for value in module.parameters())
    zero = sum(layer.bias.numel() for layer in module.modules() if isinstance(layer, nn.LayerNorm))
    tokens = len(config.data.open("eval")[0]["input_ids"])
    products = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
    for told, counted in found:
        assert told == {"parameters": everything, "nonzero_parameters": everything - zero, "disk_bytes": 4 * everything, "memory_bytes": 4 * everything}
        assert counted == macs.Counted(tokens * products, [])


PACKED = [
    pytest.param(PackedLinear.form(kind="ternary", activations="int8"), 64, 1, 8 * 2 + 4, id="ternary"),
    pytest.param(PackedLinear.form(kind="binary", activations="int8"), 64, 8, 8 * 1 + 8 * 4, id="binary"),
    pytest.param(Int4Linear.form(group_size=4), 0, 16 + 16, 8 * 4 + 16 * 4 + 16, id="int4"),
]
"""A form of a layer of 8 x 8, as which bytes of 0 are so many weights that are not zero; its scales and zero points; its bytes without bias."""


@pytest.mark.parametrize(("form", "nonzero", "more", "size"), PACKED)
def test_packed_weights_count_as_what_they_stand_for_and_bytes_as_bytes(tmp_path, form, nonzero, more, size):
    ((plain, _),) = ranks.run(1, measured, tmp_path / "plain", {})
    for number in (1, 2):
        for told, _ in ranks.run(number, measured, tmp_path / str(number), form):
            assert told["parameters"] == plain["parameters"] + more
            assert told["nonzero_parameters"] == plain["nonzero_parameters"] - 64 + nonzero - 8  # biases are 0 as yet
            assert told["disk_bytes"] == told["memory_bytes"] == plain["disk_bytes"] - 4 * 64 + size


def test_a_layer_whose_arithmetic_is_not_known_is_named(tmp_path):
    ((_, counted),) = ranks.run(1, measured, tmp_path, Shifted.form())
    assert counted.left_out == ["blocks.0.gate"]


def test_products_of_integers_count(tmp_path):
    ((_, plain),) = ranks.run(1, measured, tmp_path / "plain", {})
    ((_, counted),) = ranks.run(1, measured, tmp_path / "own", Int8Product.form())
    assert counted == plain


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_attention_counts_in_full(heads):
    shapes = [(3, heads[0], 5, 8), (3, heads[1], 7, 8), (3, heads[1], 7, 6)]
    assert macs._attention(*shapes) == 2 * 3 * heads[0] * 5 * 7 * (8 + 6)


def test_a_part_of_a_split_is_spread_over_all_of_it():
    samples = tiny.config(Single()).data.open("train")
    part = Spread(samples, 4)
    assert len(part) == 4
    assert [part[i]["input_ids"].tolist() for i in range(4)] == [samples[i]["input_ids"].tolist() for i in (0, 16, 32, 48)]
    assert torch.equal(part.batch([1, 3])["labels"], samples.batch([16, 48])["labels"])
    assert len(Spread(samples, 1000)) == len(samples)


@pytest.mark.parametrize(("most", "samples", "found"), [(512, 288, 2), (32, 10_000, 32), (32, 16, 1), (4, 450, 4)])
def test_an_interval_has_batches_to_draw_from(most: int, samples: int, found: int) -> None:
    assert batch_size(most, samples) == found
