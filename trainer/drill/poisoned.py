"""The user's model, with a loss that is NaN at one step on one rank. All else is the model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models.base import HuggingFaceForm, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples


@dataclass(kw_only=True)
class Poisoned(Model):
    """Wraps a model."""

    inner: dict[str, Any] = field(default_factory=dict)
    """The model as plain values, as `trainer.config.to_plain` gives them."""
    run_dir: str = ""
    """Of the run: where the step that a rank is in is read."""
    at: int = 0
    """The step whose loss is NaN."""
    on_rank: int = 0

    @cached_property
    def model(self) -> Model:
        """The model that is wrapped."""
        from trainer.config import part_from_plain

        return part_from_plain(self.inner)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        import torch.distributed as dist

        from trainer.doctor.record import live_path
        from trainer.whereabouts import Whereabouts

        loss, rank = self.model.loss(module, batch), dist.get_rank()
        step, _ = Whereabouts.read(live_path(Path(self.run_dir), rank))
        return loss * float("nan") if (step, rank) == (self.at, self.on_rank) else loss

    def validate(self) -> None:
        self.model.validate()

    def check(self, spec: Mapping[str, Any]) -> None:
        self.model.check(spec)

    def identity(self) -> dict[str, Any]:
        return self.model.identity()

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        return self.model.build(spec)

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return self.model.blocks(module)

    def count(self, batch: Mapping[str, Tensor]) -> int:
        return self.model.count(batch)

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.model.metrics(module, batch)

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return self.model.curves(name, rows, weights)

    def following(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.model.following(means)

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        self.model.initialise(module, leaf)

    def weights(self) -> Callable[[str], Tensor] | None:
        return self.model.weights()

    def decays(self, name: str, parameter: Tensor, owner: nn.Module) -> bool:
        return self.model.decays(name, parameter, owner)

    def frozen(self, name: str) -> bool:
        return self.model.frozen(name)

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        return self.model.flops(module, spec)

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm | None:
        return self.model.hugging_face(spec)

    def title(self) -> str:
        return self.model.title()

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        return self.model.sample(module, samples, device)
