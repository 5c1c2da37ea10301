"""A loss that is not a sum over samples is refused, and what it is instead is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data.synthetic import Synthetic, SyntheticKind
from trainer.models.base import Model
from trainer.models.gpt import GPT
from trainer.prove.silence import without_dropout
from trainer.prove.summed import not_a_sum


@dataclass(kw_only=True)
class Given(Model):
    """A linear model with a norm, and a loss that the test gives."""

    norm: Any = nn.Identity
    reduction: str = "sum"
    noise: float = 0.0

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(self.norm(), nn.Linear(spec["features"], spec["classes"]))

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(F.dropout(module(batch["features"]), self.noise), batch["labels"], reduction=self.reduction)


def problem(**knobs: Any) -> str | None:
    torch.manual_seed(0)
    samples = Synthetic(kind=SyntheticKind.tabular, features=6, classes=3).open("train")
    model = Given(**knobs)
    return not_a_sum(model, model.build(samples.spec), samples, [5, 1, 9, 4])


def test_a_sum_is_accepted():
    assert problem() is None
    assert problem(norm=lambda: nn.LayerNorm(6)) is None


def test_uneven_lengths_are_accepted():
    samples = Synthetic(seq_len=12, uneven=True).open("train")
    model = GPT(layers=1, dim=16, heads=2)
    assert not_a_sum(model, model.build(samples.spec), samples, range(6)) is None


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"reduction": "mean"}, "it is a mean; return the sum (reduction='sum')"),
        ({"norm": lambda: nn.BatchNorm1d(6)}, "the loss of a sample depends on the others (batch normalisation?)"),
        ({"noise": 0.5}, "it draws random numbers or changes the model"),
    ],
)
def test_anything_else_is_refused(knobs, words):
    assert words in str(problem(**knobs))


def test_a_statistic_of_the_batch_is_refused():
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    assert "the loss of a sample depends on the others (batch normalisation?)" in str(problem(norm=Centred))


def test_dropout_is_set_to_0_and_said():
    model, changed = without_dropout(GPT(layers=1, dim=16, heads=2, dropout=0.3))
    assert changed == ["model.dropout=0.3"]
    module = model.build({"vocab_size": 8, "seq_len": 4})
    assert all(layer.p == 0 for layer in module.modules() if isinstance(layer, nn.Dropout))

    class Noisy(Given):
        def build(self, spec: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.Dropout(0.2), nn.MultiheadAttention(4, 2, dropout=0.1))

    model, changed = without_dropout(Noisy())
    assert changed == []
    module = model.build({})
    assert changed == ["0.p=0.2", "1.dropout=0.1"]
    assert (module[0].p, module[1].dropout) == (0.0, 0.0)
    model.build({})
    assert len(changed) == 2
