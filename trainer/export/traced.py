"""A loaded model as what exporters take: a module from tensors to a tensor, and real inputs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.data.base import Samples
from trainer.models.base import Model
from trainer.posttrain.load import Loaded


class Outputs(nn.Module):
    """`model.outputs` as a function of the tensors of a batch, in the order of `keys`."""

    def __init__(self, model: Model, module: nn.Module, keys: Sequence[str]) -> None:
        super().__init__()
        self._model, self._keys = model, tuple(keys)
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._model.outputs(self.module, dict(zip(self._keys, inputs, strict=True)))


class Traced:
    """A model to export, in evaluation mode on the CPU."""

    def __init__(self, loaded: Loaded) -> None:
        self.config = loaded.config
        self.held_out = self.config.data.open("eval")
        self.keys = [key for key in self.held_out.batch([0]) if key != "labels"]
        self.module = Outputs(self.config.model, loaded.module, self.keys).eval()

    def inputs(self, count: int, split: str = "eval") -> list[Tensor]:
        """Those of `count` samples, begun anew where there are no more."""
        samples = self.held_out if split == "eval" else self.config.data.open(split)
        return self.of(samples.batch([index % len(samples) for index in range(count)]))

    def of(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        return [batch[key] for key in self.keys]

    def lengths(self) -> list[bool]:
        """For each input, whether its second dimension is a length, which may be another in another batch."""
        text = is_text(self.held_out)
        return [text and value.ndim == 2 for value in self.inputs(1)]

    @torch.no_grad()
    def expected(self, inputs: Sequence[Tensor]) -> Tensor:
        """What PyTorch makes of `inputs`."""
        return self.module(*inputs)


def is_text(samples: Samples) -> bool:
    return "seq_len" in samples.spec
