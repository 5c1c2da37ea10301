"""What `gpt` and `hf` share: fitting a vocabulary, counting operations, generating a sample. No torch here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.data.base import Samples

PROMPT_TOKENS = 16


@dataclass(kw_only=True)
class LanguageModel(Model):
    """A causal language model. A batch has `input_ids` and `labels`, both (batch, length) int64, and
    `labels[:, t]` is the token that follows `input_ids[:, t]` (the data has shifted them)."""

    prompt: str | None = None
    """What the sample shown after training starts with; null: the first 16 tokens of the data."""
    sample_tokens: int = 200
    """Tokens generated for that sample; 0: no sample."""
    temperature: float = 0.8
    """Of the sampling; 0: always the most likely token."""

    freeze: list[str] = field(default_factory=list)
    """Patterns of parameter names that are kept as they are, such as "embed_tokens.*" or "*norm*"."""

    def frozen(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.freeze)

    def check_freeze(self, module: nn.Module) -> nn.Module:
        """`module`; a `ConfigError` where a pattern of `freeze` matches none of its parameters."""
        names = [name for name, _ in module.named_parameters()]
        for pattern in self.freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"model.freeze: {pattern!r} matches no parameter; they are named like {names[0]}, {names[len(names) // 2]}, {names[-1]}")
        return module

    def validate(self) -> None:
        if self.sample_tokens < 0:
            raise ConfigError(f"model.sample_tokens={self.sample_tokens}: give 0 (no sample) or more")
        if not self.temperature >= 0:
            raise ConfigError(f"model.temperature={self.temperature}: give 0 (the most likely token) or more")

    def identity(self) -> dict[str, Any]:
        knobs = super().identity()
        del knobs["prompt"], knobs["sample_tokens"], knobs["temperature"], knobs["freeze"]
        return knobs

    def following(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Perplexity: e to the mean loss of a token."""
        return {"perplexity": means["loss"].exp()} if "loss" in means else {}

    @abstractmethod
    def attention_size(self, module: nn.Module) -> tuple[int, int]:
        """(layers, heads x head size), for the operations of attention."""

    def flops(self, module: nn.Module, spec: Mapping[str, Any]) -> tuple[float, str]:
        """Per token: 6 N + 12 x layers x dim x length (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

        N leaves out the input embedding, which is a look-up, unless it is also the output
        projection (tied). Causal attention is counted in full, as PaLM does.
        """
        from trainer.models.lookup import input_embedding_numel

        numel = sum(p.numel() for p in module.parameters()) - input_embedding_numel(module)
        layers, dim = self.attention_size(module)
        return 6.0 * numel + 12.0 * layers * dim * spec["seq_len"], "6 x parameters (without input embedding) + 12 x layers x dim x length (PaLM)"

    def sample(self, module: nn.Module, samples: Samples, device: Any) -> str | None:
        """Generate `sample_tokens` tokens by full forward passes; the same on all ranks."""
        first = [int(token) for token in samples[0]["input_ids"][:PROMPT_TOKENS]]
        if self.sample_tokens == 0 or samples.decode(first) is None:
            return None
        from trainer.models.generate import generate

        prompt = first if self.prompt is None else samples.encode(self.prompt)
        tokens = generate(
            module,
            prompt or first[:1],
            count=self.sample_tokens,
            window=samples.spec["seq_len"],
            vocab_size=samples.spec["vocab_size"],
            temperature=self.temperature,
            device=device,
        )
        return samples.decode(tokens)


def data_vocab(model: str, spec: Mapping[str, Any]) -> int:
    """The vocabulary of the data, or a `ConfigError` where the data is not tokens, or has a class for them all."""
    if "vocab_size" not in spec or "seq_len" not in spec:
        raise ConfigError(
            f"model={model} needs text (token ids), but the data has {', '.join(sorted(spec))}. Choose data=stdlib or data=text, or another model"
        )
    if "classes" in spec:
        raise ConfigError(f"model={model} predicts the next token, but the data has a class for each text. Choose model=text_classifier, or data=text")
    return int(spec["vocab_size"])
