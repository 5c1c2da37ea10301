"""From a loaded model and its data to the cases that are explained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.base import Samples
from trainer.errors import ConfigError
from trainer.explain.base import Kind
from trainer.explain.case import Case
from trainer.explain.run import kind_of
from trainer.models.base import Model
from trainer.posttrain.measure import Spread
from trainer.sections import PosttrainConfig


@dataclass(frozen=True)
class Decisions(ABC):
    """The decisions of one model on samples of the evaluation split."""

    model: Model
    module: nn.Module
    """Whole, in evaluation mode."""
    samples: Samples
    """The evaluation split."""
    background: Samples
    """Of the training split, what absent units are taken from."""
    output: int | None = None
    """The class that is explained. None: the second of two, and of more the one that the model predicts."""

    @abstractmethod
    def case(self, index: int, module: nn.Module | None = None) -> Case:
        """Sample `index`, decided by `module` in the place of the model, if given: with the class that the model itself predicts."""

    @abstractmethod
    def shown(self, index: int) -> dict[str, Any]:
        """What a report shows of sample `index`, as plain data: `values` of its units for a table, and so on."""

    def describe(self) -> str:
        """What is explained, in a sentence's words."""
        classes = self.samples.describe().get("class_names")

        def named(number: int) -> str:
            return f"class {number}" + (f" ({classes[number]})" if classes else "")

        if self.output is not None:
            return f"log-odds of {named(self.output)}"
        outputs = self.samples.spec.get("classes")
        if not outputs:
            return "the predicted number"
        return f"log-odds of {named(1)}" if outputs == 2 else "log-odds of the class that the model predicts"

    def batch(self, index: int) -> dict[str, Tensor]:
        """Sample `index` on the model's device, with a batch dimension of 1."""
        return {key: value.to(self.device()) for key, value in self.samples.batch([index]).items()}

    def device(self) -> torch.device:
        return next(iter(self.module.parameters()), torch.empty(0)).device

    def chosen(self, outputs: Tensor) -> int:
        """The class to explain, of the model's `outputs` (classes,) for a sample.

        Raises:
            ConfigError: there is no such class.
        """
        if self.output is not None:
            if not 0 <= self.output < len(outputs):
                raise ConfigError(f"posttrain.explain_output={self.output}: the model has the outputs 0 to {len(outputs) - 1}")
            return self.output
        return 1 if len(outputs) == 2 else int(outputs.argmax())


def decisions_class(kind: Kind) -> type[Decisions]:
    """How samples of `kind` become cases."""
    from trainer.explain.image import ImageDecisions
    from trainer.explain.tabular import TabularDecisions
    from trainer.explain.text import TextDecisions

    return {Kind.tabular: TabularDecisions, Kind.text: TextDecisions, Kind.image: ImageDecisions}[kind]


def decisions_of(model: Model, module: nn.Module, held_out: Samples, train: Samples, asked: PosttrainConfig) -> Decisions:
    """The decisions of `module` on `held_out`, against samples of `train` at even distances."""
    kind = kind_of(held_out.spec)
    knobs = {Kind.text: {"tokens": asked.explain_tokens}, Kind.image: {"regions": asked.explain_regions}}.get(kind, {})
    return decisions_class(kind)(model, module, held_out, Spread(train, asked.explain_background), asked.explain_output, **knobs)
