"""mlp: classes and regression, tables and images."""

from __future__ import annotations

import pytest
import torch

from trainer.errors import ConfigError
from trainer.models.mlp import MLP


def test_regression_loss_is_the_summed_squared_error():
    model = MLP(hidden=[])
    module = model.build({"features": 3})
    x, y = torch.randn(5, 3), torch.randn(5)
    layer = module.layers[0]  # type: ignore[index]
    expected = ((x @ layer.weight.T + layer.bias)[:, 0] - y).square().sum()
    torch.testing.assert_close(model.loss(module, {"features": x, "labels": y}), expected)
    assert set(model.metrics(module, {"features": x, "labels": y})) == {"loss"}
    assert model.count({"features": x, "labels": y}) == 5


def test_classification_counts_the_right_answers():
    model = MLP(hidden=[])
    module = model.build({"features": 3, "classes": 3})
    with torch.no_grad():
        module.layers[0].weight.copy_(torch.eye(3))  # type: ignore[index]
        module.layers[0].bias.zero_()  # type: ignore[index]
    batch = {"features": torch.eye(3), "labels": torch.tensor([0, 1, 0])}
    sums = model.metrics(module, batch)
    assert int(sums["accuracy"]) == 2
    torch.testing.assert_close(sums["loss"], torch.nn.functional.cross_entropy(torch.eye(3), batch["labels"], reduction="sum"))
    torch.testing.assert_close(model.loss(module, batch), sums["loss"])


def test_images_are_flattened():
    module = MLP(hidden=[4]).build({"channels": 2, "height": 3, "width": 5, "classes": 10})
    assert module(torch.randn(7, 2, 3, 5)).shape == (7, 10)


def test_learns_what_a_linear_model_cannot():
    torch.manual_seed(0)
    model = MLP(hidden=[16])
    module = model.build({"features": 2, "classes": 2})
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    batch = {"features": x, "labels": torch.tensor([0, 1, 1, 0])}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(module, batch).backward()
        optimizer.step()
    assert int(model.metrics(module, batch)["accuracy"]) == 4


def test_fp64_takes_fp32_data():
    model = MLP()
    module = model.build({"features": 3}).double()
    assert model.loss(module, {"features": torch.randn(5, 3), "labels": torch.randn(5)}).dtype is torch.float64


def test_text_is_refused():
    with pytest.raises(ConfigError) as error:
        MLP().check({"vocab_size": 5, "seq_len": 4})
    assert str(error.value) == "model=mlp needs a table or images, but the data has seq_len, vocab_size. Choose data=tabular or data=images, or another model"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"hidden": [8, 0]}, "model.hidden=[8, 0]: every width must be at least 1"), ({"dropout": -0.1}, "model.dropout=-0.1: must be at least 0 and below 1")],
)
def test_values_that_never_work(knobs, message):
    with pytest.raises(ConfigError) as error:
        MLP(**knobs).validate()
    assert str(error.value) == message
