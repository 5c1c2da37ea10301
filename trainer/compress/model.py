"""A compressed model as a model: what it was compressed from, with some layers of another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from trainer.models.base import HuggingFaceForm, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples


@dataclass(kw_only=True)
class Compressed(Model):
    """`base` with the layers of `forms`. Its values are those of a checkpoint."""

    base: Model = MISSING
    forms: dict[str, Any] = field(default_factory=dict)
    """Full name of a layer to its form (see `trainer.compress.form`)."""
    start: str | None = None
    """A checkpoint that fresh values come from; null: they are drawn anew, for a checkpoint to replace."""

    def validate(self) -> None:
        self.base.validate()

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.compress.form import replace

        return replace(self.base.build(spec), self.forms)

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return self.base.blocks(module)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.base.loss(module, batch)

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.base.outputs(module, batch)

    def count(self, batch: Mapping[str, Tensor]) -> int:
        return self.base.count(batch)

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.metrics(module, batch)

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

    def check(self, spec: Mapping[str, Any]) -> None:
        self.base.check(spec)

    def decays(self, name: str, parameter: Tensor, owner: nn.Module) -> bool:
        return self.base.decays(name, parameter, owner)

    def frozen(self, name: str) -> bool:
        return self.base.frozen(name)

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Those of the model before compression: layers of another form have not all that is counted by."""
        import torch

        with torch.device("meta"):
            plain = self.base.build(spec)
        flops, formula = self.base.flops(plain, spec)
        return flops, f"{formula}, of the model before compression" if self.forms else formula

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm | None:
        return None if self.forms else self.base.hugging_face(spec)

    def title(self) -> str:
        return f"{self.base.title()}, compressed"

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        return self.base.sample(module, samples, device)
