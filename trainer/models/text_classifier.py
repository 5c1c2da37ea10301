"""`model=text_classifier`: a class for a text (its module: trainer/models/text_classifier_module.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.gpt import swiglu_width
from trainer.models.supervised import SupervisedModel

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(kw_only=True)
class TextClassifier(SupervisedModel):
    """gpt's blocks, in which each token sees all others of its text, the mean over the tokens, and a linear layer."""

    layers: int = 2
    """Number of blocks."""
    dim: int = 128
    """Width of the residual stream."""
    heads: int = 4
    """Attention heads; `dim` is an even multiple of it."""
    dropout: float = 0.0
    """Of the embedding, of what each attention and feed-forward adds, and before the last layer."""

    def validate(self) -> None:
        super().validate()
        for name in ("layers", "dim", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)}: must be at least 1")
        if self.dim % (2 * self.heads):
            raise ConfigError(f"model.heads={self.heads}: model.dim={self.dim} must be an even multiple of it, for rotary positions")

    def check(self, spec: Mapping[str, Any]) -> None:
        if not {"vocab_size", "seq_len", "classes"} <= spec.keys():
            raise ConfigError(
                f"model=text_classifier needs texts with a class each, but the data has {', '.join(sorted(spec))}. Choose data=labelled_text, or another model"
            )

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.text_classifier_module import Encoder

        return Encoder(
            layers=self.layers,
            dim=self.dim,
            heads=self.heads,
            ffn_dim=swiglu_width(self.dim),
            vocab_size=int(spec["vocab_size"]),
            classes=int(spec["classes"]),
            dropout=self.dropout,
        )

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return list(module.layers)  # type: ignore[arg-type]

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(batch["input_ids"], batch.get("attention_mask"))

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Per text of the mean length, padding not counted: what PaLM counts for each token (see `LanguageModel.flops`), and the last layer once."""
        length = float(spec["mean_tokens"])
        body = sum(parameter.numel() for layer in module.layers for parameter in layer.parameters())  # type: ignore[union-attr]
        head = sum(parameter.numel() for parameter in module.head.parameters())  # type: ignore[union-attr]
        total = length * (6.0 * body + 12.0 * self.layers * self.dim * length) + 6.0 * head
        return total, "(6 x parameters of the blocks + 12 x layers x dim x length) x length + 6 x parameters of the last layer, at the mean length of the texts"
