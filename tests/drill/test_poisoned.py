"""What wraps the user's model passes everything on but the loss."""

from __future__ import annotations

import inspect

import pytest

from trainer import config as configs
from trainer.drill.poisoned import Poisoned
from trainer.errors import ConfigError
from trainer.models.base import Model
from trainer.models.gpt import GPT


def test_every_method_of_a_model_is_passed_on():
    methods = {name for cls in (Model, *Model.__mro__[1:-2]) for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert len(methods) > 10
    assert methods - vars(Poisoned).keys() == set()


def test_the_model_is_the_same_also_after_being_written():
    model = Poisoned(inner=configs.to_plain(GPT(layers=3, dim=16, heads=2)), run_dir="x", at=4, on_rank=1)
    again = configs.part_from_plain(configs.to_plain(model))
    assert again == model
    assert again.model == GPT(layers=3, dim=16, heads=2)
    assert again.title() == GPT(layers=3, dim=16, heads=2).title()
    with pytest.raises(ConfigError, match="model\\."):
        Poisoned(inner=configs.to_plain(GPT(dim=16, heads=3))).validate()
