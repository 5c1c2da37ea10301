"""What a compressor is to the trainer: one method, one dataclass, one YAML. Nothing here imports torch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import ConfigError
from trainer.part import Part

if TYPE_CHECKING:
    from torch import nn

    from trainer.compress.subject import Change, Subject
    from trainer.models.base import Model


@dataclass(kw_only=True)
class FineTune:
    """Training within a chain of compressions: on the run's own data, under its strategy, as an ordinary run."""

    steps: int = 0
    """Optimizer steps; 0: none."""
    lr: float | None = None
    """Peak learning rate; null: a tenth of `optim.lr`."""

    def validate(self, key: str) -> None:
        """Raise `ConfigError` for what cannot be trained."""
        if self.steps < 0:
            raise ConfigError(f"{key}.steps={self.steps}: must be at least 0")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError(f"{key}.lr={self.lr}: must be above 0, or null for a tenth of optim.lr")


@dataclass(kw_only=True)
class Compressor(Part):
    """One way to make a trained model smaller. What it does is called on every rank with the same arguments."""

    ends: ClassVar[str] = ""
    """Why nothing may follow it; empty: something may."""
    reforms: ClassVar[bool] = False
    """Whether it leaves layers in another form."""
    plain: ClassVar[bool] = False
    """Whether no layer may have another form when it comes."""
    recovers: ClassVar[bool] = False
    """Whether it wins back quality that methods before it have lost, so that it cannot be the first."""
    layers: list[str] = field(default_factory=lambda: ["*"])
    """Patterns of the names of layers that it is for, among those in the model's blocks."""
    exclude: list[str] = field(default_factory=list)
    """Patterns of the names of layers that are left as they are."""

    def chosen(self, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Those of `layers` (full names) that the patterns choose."""
        return {
            name: layer
            for name, layer in layers.items()
            if any(fnmatchcase(name, pattern) for pattern in self.layers) and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        }

    def check(self, layers: Mapping[str, nn.Module], key: str) -> None:
        """Refuse what this method cannot do with a model of these layers (without values), before any work.

        Raises:
            ConfigError: `key` (such as "compress.prune") and what is wrong.
        """
        if not self.chosen(layers):
            names = list(layers)
            like = f"; they are named like {names[0]}, {names[-1]}" if names else ""
            raise ConfigError(f"{key}: layers={self.layers} exclude={self.exclude} choose none of the model's {len(names)} layers{like}")

    def training(self) -> FineTune:
        """What is trained between `prepare` and `run`; without steps, `prepare` is not called either."""
        return FineTune()

    def prepare(self, subject: Subject) -> Change:
        """Give layers the form in which they are trained. A collective."""
        from trainer.compress.subject import Change

        return Change()

    def in_training(self, model: Model, teacher: Model, taught_from: str) -> Model:
        """The model that is trained: `model`, as `prepare` has left it. `teacher`: the one before all compression, with the checkpoint of its values."""
        return model

    @abstractmethod
    def run(self, subject: Subject) -> Change:
        """Compress. Values of `subject` may be changed in place; layers of another form are in what is returned. A collective."""
