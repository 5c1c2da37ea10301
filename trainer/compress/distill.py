"""`distill`: win back quality by training with the model before compression as the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from trainer.compress.base import Compressor, FineTune
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.compress.subject import Change, Subject
    from trainer.models.base import Model


@dataclass(kw_only=True)
class Distill(Compressor):
    """Trains all parameters; weights that pruning has made zero stay zero."""

    recovers: ClassVar[bool] = True
    temperature: float = 2.0
    """What logits are divided by, so that the teacher tells more than its first choice."""
    weight: float = 0.5
    """Share of the teacher in the loss; the labels have the rest."""
    finetune: FineTune = field(default_factory=lambda: FineTune(steps=100))

    def validate(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"compress.distill.temperature={self.temperature}: must be above 0")
        if not 0 < self.weight <= 1:
            raise ConfigError(f"compress.distill.weight={self.weight}: must be above 0 and at most 1")
        if self.finetune.steps < 1:
            raise ConfigError(f"compress.distill.finetune.steps={self.finetune.steps}: must be at least 1")

    def training(self) -> FineTune:
        return self.finetune

    def prepare(self, subject: Subject) -> Change:
        from trainer.compress.student import prepare

        return prepare(subject)

    def in_training(self, model: Model, teacher: Model, taught_from: str) -> Model:
        from trainer.compress.distilled import Distilled
        from trainer.compress.model import Compressed

        return Distilled(student=model, teacher=Compressed(base=teacher, start=taught_from), temperature=self.temperature, weight=self.weight)

    def run(self, subject: Subject) -> Change:
        from trainer.compress.student import alone

        return alone(subject)
