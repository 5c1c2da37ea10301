"""A student and its teacher in one model, so that any strategy trains it: the teacher's parameters are frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from trainer.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples

STUDENT, TEACHER = "student.", "teacher."


@dataclass(kw_only=True)
class Distilled(Model):
    """`student`, which learns from the labels and from `teacher` (Hinton et al. 2015, arXiv:1503.02531)."""

    student: Model = MISSING
    teacher: Model = MISSING
    temperature: float = 2.0
    weight: float = 0.5
    """Share of the teacher in the loss."""

    def validate(self) -> None:
        self.student.validate()
        self.teacher.validate()

    def check(self, spec: Mapping[str, Any]) -> None:
        self.student.check(spec)

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.compress.pair import Pair

        return Pair(self, self.student.build(spec), self.teacher.build(spec))

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return [*self.student.blocks(module.student), *self.teacher.blocks(module.teacher)]  # type: ignore[arg-type]

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(taught=batch)

    def count(self, batch: Mapping[str, Tensor]) -> int:
        return self.student.count(batch)

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.student.metrics(module, batch)

    def curves(self, name: str, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return self.student.curves(name, rows, weights)

    def following(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.student.following(means)

    def begin_step(self, module: nn.Module, done: float) -> None:
        self.student.begin_step(module.student, done)  # type: ignore[arg-type]

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        mine = any(leaf is sub for sub in module.student.modules())  # type: ignore[union-attr]
        part: Any = module.student if mine else module.teacher
        (self.student if mine else self.teacher).initialise(part, leaf)

    def weights(self) -> Callable[[str], Tensor] | None:
        mine, others = self.student.weights(), self.teacher.weights()
        if mine is None or others is None:
            return None
        return lambda name: mine(name.removeprefix(STUDENT)) if name.startswith(STUDENT) else others(name.removeprefix(TEACHER))

    def decays(self, name: str, parameter: Tensor, owner: nn.Module) -> bool:
        return self.student.decays(name.removeprefix(STUDENT), parameter, owner)

    def frozen(self, name: str) -> bool:
        return name.startswith(TEACHER) or self.student.frozen(name.removeprefix(STUDENT))

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        mine, formula = self.student.flops(module.student, spec)  # type: ignore[arg-type]
        others, _ = self.teacher.flops(module.teacher, spec)  # type: ignore[arg-type]
        return mine + others / 3, f"{formula}, and a third of the teacher's"

    def title(self) -> str:
        return f"{self.student.title()}, taught by {self.teacher.title()}"

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        return self.student.sample(module, samples, device)
