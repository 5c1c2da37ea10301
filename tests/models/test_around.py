"""A model around another one passes on all that it does not say itself."""

from __future__ import annotations

import inspect

import pytest

from trainer.errors import ConfigError
from trainer.models.around import Around
from trainer.models.base import Model
from trainer.models.gpt import GPT


def test_every_method_of_a_model_is_passed_on():
    methods = {name for cls in (Model, *Model.__mro__[1:-2]) for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert len(methods) > 10
    assert methods - vars(Around).keys() == set()


def test_what_cannot_be_is_said_by_the_model_within():
    with pytest.raises(ConfigError, match="model\\."):
        Around(base=GPT(dim=16, heads=3)).validate()
