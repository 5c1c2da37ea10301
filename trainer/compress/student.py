"""What `distill` does to a model before and after its training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from trainer.compress.distilled import STUDENT, Distilled
from trainer.compress.model import Compressed
from trainer.compress.subject import Change, Subject, local
from trainer.compress.trained import Kept, KeptConv2d, KeptLinear

PRUNED = 0.01  # share of zeros from which on a layer counts as pruned: trained weights are hardly ever zero


def prepare(subject: Subject) -> Change:
    """Pruned layers as ones whose zeros stay. A collective."""
    return Change(forms={name: (KeptConv2d if isinstance(layer, nn.Conv2d) else KeptLinear).form() for name, layer in pruned(subject).items()})


def pruned(subject: Subject) -> dict[str, nn.Module]:
    """The layers that a pruning has made sparse. A collective."""
    layers = subject.layers()
    zeros = torch.tensor([_zeros(layer) for layer in layers.values()], dtype=torch.float64, device=subject.engine.device)
    dist.all_reduce(zeros)
    counted = zip(layers.items(), zeros.tolist(), strict=True)
    return {name: layer for (name, layer), count in counted if count >= PRUNED * layer.weight.numel()}  # type: ignore[union-attr, operator]


def alone(subject: Subject) -> Change:
    """The student without its teacher, in its plain form."""
    assert isinstance(subject.model, Distilled)
    student = subject.model.student
    assert isinstance(student, Compressed)
    kept = {f"{Kept.__module__}.{kind.__name__}" for kind in (KeptLinear, KeptConv2d)}
    forms = {name: form for name, form in student.forms.items() if form["layer"] not in kept}
    values = {name.removeprefix(STUDENT): value for name, value in subject.values().items() if name.startswith(STUDENT)}
    return Change(model=Compressed(base=student.base, forms=forms) if forms else student.base, values=values)


def _zeros(layer: nn.Module) -> int:
    return int((local(layer.weight) == 0).sum())  # type: ignore[arg-type]
