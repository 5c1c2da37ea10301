"""A compressed model as a model: what it was compressed from, with some layers of another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models.around import Around
from trainer.models.base import HuggingFaceForm

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class Compressed(Around):
    """`base` with the layers of `forms`. Its values are those of a checkpoint."""

    forms: dict[str, Any] = field(default_factory=dict)
    """Full name of a layer to its form (see `trainer.compress.form`)."""
    start: str | None = None
    """A checkpoint that fresh values come from; null: they are drawn anew, for a checkpoint to replace."""

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.compress.form import replace

        return replace(self.base.build(spec), self.forms)

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        from trainer.compress.form import CompressedLayer

        if isinstance(leaf, CompressedLayer):
            leaf.reset_parameters()  # type: ignore[operator]
        else:
            self.base.initialise(module, leaf)

    def weights(self) -> Callable[[str], Tensor] | None:
        from trainer.checkpoint.export import MODEL
        from trainer.checkpoint.tensors import StoredTensors

        if self.start is None:
            return None if self.forms else self.base.weights()
        stored = StoredTensors(Path(self.start))
        return lambda name: stored.read(MODEL + name)

    def begin_step(self, module: nn.Module, done: float) -> None:
        for name in self.forms:
            module.get_submodule(name).begin_step(done)  # type: ignore[operator]

    def identity(self) -> dict[str, Any]:
        return {"base": self.base.identity(), "forms": self.forms}

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm | None:
        return None if self.forms else self.base.hugging_face(spec)

    def title(self) -> str:
        return f"{self.base.title()}, compressed"
