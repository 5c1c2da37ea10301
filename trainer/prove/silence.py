"""Dropout set to 0, so that a run is a function of its samples alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.models.base import Model

WORDS = ("dropout", "drop_prob", "drop_path", "pdrop", "layerdrop")


def without_dropout(model: Model) -> tuple[Model, list[str]]:
    """A copy of `model` that builds modules without dropout, and what was set to 0 (it grows when one is built).

    That is: config fields, and attributes of the modules built, that are rates and named after dropout.
    """
    quiet = copy.deepcopy(model)
    changed = _zero_fields(quiet, "model")
    build = quiet.build

    def build_quiet(spec: Mapping[str, Any]) -> nn.Module:
        module = build(spec)
        changed.extend(item for item in _zero_attributes(module) if item not in changed)
        return module

    quiet.build = build_quiet  # type: ignore[method-assign]
    return quiet, changed


def _is_rate(name: str, value: Any) -> bool:
    return any(word in name.lower() for word in WORDS) and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _zero_fields(part: Any, prefix: str) -> list[str]:
    changed = []
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if dataclasses.is_dataclass(value):
            changed += _zero_fields(value, f"{prefix}.{item.name}")
        elif _is_rate(item.name, value):
            setattr(part, item.name, 0.0)
            changed.append(f"{prefix}.{item.name}={value:g}")
    return changed


def _zero_attributes(module: nn.Module) -> list[str]:
    changed = []
    for name, submodule in module.named_modules():
        rates = {key: value for key, value in vars(submodule).items() if _is_rate(key, value)}
        if isinstance(submodule, nn.modules.dropout._DropoutNd) and submodule.p > 0:
            rates["p"] = submodule.p
        for key, value in rates.items():
            setattr(submodule, key, 0.0)
            changed.append(f"{name}.{key}={value:g}" if name else f"{key}={value:g}")
    return changed
