"""Layers of another form than those they replace, and how a model that was built plain is given them.

A form is plain data: {"layer": "package.module.Class", ...}, with what `Class.replacing` takes beside the layer.
It stands in the config of a compressed model, so that its run directory alone rebuilds it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from trainer.errors import ConfigError

LAYER = "layer"


class CompressedLayer(nn.Module, ABC):
    """Stands in the place of a plain layer."""

    @classmethod
    @abstractmethod
    def replacing(cls, original: nn.Module, **knobs: Any) -> Self:
        """The layer that stands for `original`, without values."""

    @classmethod
    def form(cls, **knobs: Any) -> dict[str, Any]:
        """The form that `replace` makes into such a layer."""
        return {LAYER: f"{cls.__module__}.{cls.__qualname__}", **knobs}

    def begin_step(self, done: float) -> None:
        """Told before each step of a training, of which the share `done`, from 0 to 1, is over when that step is."""

    def meant(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`values`, rows of its own parameters by name, with packed ones as the numbers that they stand for, but for a scale."""
        return dict(values)

    def for_inference(self) -> None:
        """Told when its values are final, on a model that is whole in this process: what is made of them anew in each pass may be kept."""


def replace(module: nn.Module, forms: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """`module`, as built plain, with the layers of `forms` (full name to form) in their places.

    Raises:
        ConfigError: a name that the module has not, or a class that is no `CompressedLayer`.
    """
    for name, form in forms.items():
        try:
            original = module.get_submodule(name)
        except AttributeError:
            raise ConfigError(f"model.forms.{name}: the model has no such layer") from None
        parent, _, key = name.rpartition(".")
        knobs = {knob: value for knob, value in form.items() if knob != LAYER}
        setattr(module.get_submodule(parent), key, _layer_class(name, str(form.get(LAYER))).replacing(original, **knobs))
    return module


def _layer_class(name: str, target: str) -> type[CompressedLayer]:
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.forms.{name}.{LAYER}={target}: cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, CompressedLayer)):
        raise ConfigError(f"model.forms.{name}.{LAYER}={target}: is not a layer that is derived from trainer.compress.form.CompressedLayer")
    return found
