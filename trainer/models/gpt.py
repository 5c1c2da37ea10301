"""`model=gpt`: a decoder in plain PyTorch in the shape of Llama (its module: trainer/models/gpt_module.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.base import HuggingFaceForm
from trainer.models.language import LanguageModel, data_vocab

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class RopeScaling:
    """Llama 3.1's stretching of the rotary wavelengths to longer contexts (arXiv:2407.21783)."""

    factor: float = 1.0
    """How much the long wavelengths are stretched; 1: not at all."""
    low_freq_factor: float = 1.0
    """Wavelengths above original_max_seq_len / this are stretched in full."""
    high_freq_factor: float = 4.0
    """Wavelengths below original_max_seq_len / this stay as they are."""
    original_max_seq_len: int = 8192
    """The context before stretching."""

    def validate(self) -> None:
        """Raise `ConfigError` for what no wavelength can be stretched by."""
        for name in ("factor", "low_freq_factor", "original_max_seq_len"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"model.rope_scaling.{name}={getattr(self, name)}: must be a finite number more than 0")
        if not self.low_freq_factor < self.high_freq_factor < math.inf:
            raise ConfigError(
                f"model.rope_scaling.high_freq_factor={self.high_freq_factor}: must be a finite number more than "
                f"model.rope_scaling.low_freq_factor={self.low_freq_factor}"
            )


@dataclass(kw_only=True)
class GPT(LanguageModel):
    """Llama's decoder (Touvron et al. 2023, arXiv:2302.13971) with grouped-query attention. About 3 M parameters by default."""

    layers: int = 4
    """Number of blocks."""
    dim: int = 256
    """Width of the residual stream."""
    heads: int = 4
    """Query heads; `dim` is a multiple of it."""
    kv_heads: int | None = None
    """Key and value heads, each shared by heads / kv_heads query heads; null: as many as `heads`."""
    ffn_dim: int | None = None
    """Inner width of SwiGLU; null: 8/3 of `dim`, rounded up to a multiple of 64."""
    vocab_size: int | None = None
    """Null: the vocabulary of the data."""
    max_seq_len: int | None = None
    """Longest sequence that is accepted; null: the data's. No parameter depends on it."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = field(default_factory=RopeScaling)  # not None: a command line cannot set a key of what is null
    """With a factor of 1, or null: none."""
    norm_eps: float = 1e-5
    """Epsilon of RMSNorm."""
    tie_embeddings: bool = False
    """The output projection is the input embedding."""
    dropout: float = 0.0
    """Of the embedding and of what each attention and feed-forward adds to the residual stream."""

    def validate(self) -> None:
        super().validate()
        for name in ("layers", "dim", "heads", "kv_heads", "ffn_dim", "vocab_size", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name}={value}: must be at least 1")
        if self.dim % self.heads:
            raise ConfigError(f"model.heads={self.heads}: does not divide model.dim={self.dim}")
        if self.dim // self.heads % 2:
            raise ConfigError(f"model.heads={self.heads}: model.dim / model.heads = {self.dim // self.heads} must be even for rotary positions")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ConfigError(f"model.kv_heads={self.kv_heads}: does not divide model.heads={self.heads}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be at least 0 and below 1")
        if not 0 < self.rope_theta < math.inf:
            raise ConfigError(f"model.rope_theta={self.rope_theta}: must be a finite number more than 0")
        if not 0 <= self.norm_eps < math.inf:
            raise ConfigError(f"model.norm_eps={self.norm_eps}: must be a finite number, at least 0")
        if self.rope_scaling is not None:
            self.rope_scaling.validate()

    def check(self, spec: Mapping[str, Any]) -> None:
        vocab, length = data_vocab("gpt", spec), int(spec["seq_len"])
        if self.vocab_size is not None and vocab > self.vocab_size:
            raise ConfigError(f"model.vocab_size={self.vocab_size}: the data has token ids up to {vocab - 1}; give at least {vocab}, or null")
        if self.max_seq_len is not None and length > self.max_seq_len:
            raise ConfigError(f"model.max_seq_len={self.max_seq_len}: the data has sequences of {length}; give at least {length}, or null")

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.gpt_module import Decoder

        decoder = Decoder(
            layers=self.layers,
            dim=self.dim,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            ffn_dim=self.inner_dim(),
            vocab_size=self.vocab_size or int(spec["vocab_size"]),
            rope_theta=self.rope_theta,
            rope_scaling=self.stretching(),
            norm_eps=self.norm_eps,
            tie_embeddings=self.tie_embeddings,
            dropout=self.dropout,
        )
        return self.check_freeze(decoder)

    def identity(self) -> dict[str, Any]:
        knobs = super().identity()
        del knobs["dropout"], knobs["max_seq_len"], knobs["vocab_size"]  # the last is seen in shapes
        scaling = self.stretching()
        one_form = {"kv_heads": self.kv_heads or self.heads, "ffn_dim": self.inner_dim(), "rope_scaling": None if scaling is None else asdict(scaling)}
        return knobs | one_form

    def inner_dim(self) -> int:
        """`ffn_dim`, or what null means."""
        return self.ffn_dim or swiglu_width(self.dim)

    def stretching(self) -> RopeScaling | None:
        """`rope_scaling`, where it changes anything."""
        return self.rope_scaling if self.rope_scaling is not None and self.rope_scaling.factor != 1 else None

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        return list(module.layers)  # type: ignore[arg-type]

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(batch["input_ids"], labels=batch["labels"], document_ids=batch.get("document_ids"))

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return module(batch["input_ids"], document_ids=batch.get("document_ids"))

    def attention_size(self, module: nn.Module) -> tuple[int, int]:
        return self.layers, self.dim

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm:
        from trainer.models.llama import llama_config, llama_name

        return HuggingFaceForm(llama_config(self, spec), llama_name)


def swiglu_width(dim: int) -> int:
    """8/3 of `dim`, rounded up to a multiple of 64: as many parameters as a feed-forward of two layers, 4 `dim` wide, has."""
    return -(-8 * dim // (3 * 64)) * 64
