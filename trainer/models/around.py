"""A model made of another one: whatever it does not say itself, that one says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from trainer.models.base import HuggingFaceForm, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples
    from trainer.models.picture import Finding, Picture


@dataclass(kw_only=True)
class Around(Model):
    """`base`, with something else about it. What is built has the names of what `base` builds."""

    base: Model = MISSING

    def validate(self) -> None:
        self.base.validate()

    def check(self, spec: Mapping[str, Any]) -> None:
        self.base.check(spec)

    def identity(self) -> dict[str, Any]:
        return self.base.identity()

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        return self.base.build(spec)

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return self.base.blocks(module)

    def begin_step(self, module: nn.Module, done: float) -> None:
        self.base.begin_step(module, done)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.base.loss(module, batch)

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.base.outputs(module, batch)

    def count(self, batch: Mapping[str, Tensor]) -> int:
        return self.base.count(batch)

    def valid(self, labels: Tensor) -> Tensor:
        return self.base.valid(labels)

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.metrics(module, batch)

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return self.base.curves(name, rows, weights)

    def following(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.base.following(means)

    def pictures(self, module: nn.Module, batch: Mapping[str, Tensor]) -> list[Picture]:
        return self.base.pictures(module, batch)

    def findings(self, outputs: Tensor) -> list[Finding]:
        return self.base.findings(outputs)

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        self.base.initialise(module, leaf)

    def weights(self) -> Callable[[str], Tensor] | None:
        return self.base.weights()

    def decays(self, name: str, parameter: Tensor, owner: nn.Module) -> bool:
        return self.base.decays(name, parameter, owner)

    def frozen(self, name: str) -> bool:
        return self.base.frozen(name)

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        return self.base.flops(module, spec)

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm | None:
        return self.base.hugging_face(spec)

    def title(self) -> str:
        return self.base.title()

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        return self.base.sample(module, samples, device)
