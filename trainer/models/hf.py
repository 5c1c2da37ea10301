"""`model=hf`: any causal language model of transformers (how it is read: trainer/models/hf_module.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.assets import resolve_asset
from trainer.errors import ConfigError, missing_extra
from trainer.models.base import HuggingFaceForm
from trainer.models.language import LanguageModel, data_vocab

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXT_SECTIONS = ("text_encoder", "decoder", "generator", "text_config")
"""Where the config of a model of several parts has its text model: the names that `get_text_config` of transformers looks for."""


@dataclass(kw_only=True)
class HF(LanguageModel):
    """A causal language model from a directory, a hub id, a config alone, or the name of a fetched asset."""

    path: str | None = None
    """A directory with config.json and safetensors, a hub id, or a config alone (a JSON file, or a
    directory without weights): then the weights are fresh. Or what `python -m trainer.fetch` brought."""
    fresh: bool = False
    """Leave the weights that `path` has, and start from initial values."""
    dropout: float | None = None
    """Null: as the config has it; a number: every dropout probability of the config."""

    def validate(self) -> None:
        super().validate()
        if self.path is None:
            raise ConfigError("model.path is not set: give a directory, a hub id, the JSON file of a config, or the name of a fetched asset such as smollm2")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout={self.dropout}: must be at least 0 and below 1, or null")
        place = Path(resolve_asset("model.path", self.path))
        if place.is_dir() and not (place / "config.json").is_file():
            raise ConfigError(f"model.path={self.path}: the directory has no config.json")
        if not place.exists() and (self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or self.path.endswith(".json")):
            raise ConfigError(f"model.path={self.path}: is not there")

    def title(self) -> str:
        """The model's path; of a fetched asset what it is and what was done to it."""
        assert self.path is not None
        asset = Path(resolve_asset("model.path", self.path)) / "asset.json"
        return json.loads(asset.read_text(encoding="utf-8"))["title"] if asset.is_file() else self.path

    def check(self, spec: Mapping[str, Any]) -> None:
        data_vocab("hf", spec)
        if find_spec("transformers") is None:
            raise missing_extra("transformers", "hf", "model=hf")
        text = self._stated()
        self._check_fit(text.get("vocab_size"), text.get("max_position_embeddings", text.get("n_positions") if "n_embd" in text else None), spec)

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        from trainer.models.hf_module import build, read_config

        module = build(read_config(self), self.path)
        text: Any = module.config.get_text_config()  # type: ignore[union-attr, operator]
        self._check_fit(text.vocab_size, getattr(text, "max_position_embeddings", None), spec)
        return self.check_freeze(module)

    def _stated(self) -> dict[str, Any]:
        """What the config at `path` says of the text model, where it can be read without transformers (which imports torch). A hub's cannot.

        Values that transformers has by default may be missing; what it calls differently in a few models is left to `build`.
        """
        assert self.path is not None
        place = Path(resolve_asset("model.path", self.path))
        file = place / "config.json" if place.is_dir() else place
        if not file.is_file():
            return {}
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path={self.path}: is not a config that transformers knows: {file}: {error}") from error
        if not isinstance(config, dict):
            raise ConfigError(f"model.path={self.path}: is not a config that transformers knows: {file}: is not a JSON object")
        sections = [config[name] for name in TEXT_SECTIONS if isinstance(config.get(name), dict)]
        return sections[0] if len(sections) == 1 else {} if sections else config

    def _check_fit(self, vocab_size: Any, length: Any, spec: Mapping[str, Any]) -> None:
        """Refuse data with ids beyond `vocab_size` or sequences beyond `length`; one that is no integer has no limit, or is not known."""
        ids, tokens = data_vocab("hf", spec), int(spec["seq_len"])
        if isinstance(vocab_size, int) and ids > vocab_size:
            raise ConfigError(
                f"model.path={self.path}: has a vocabulary of {vocab_size}, but the data has token ids up to {ids - 1}; "
                f"tokenise the data with this model's tokenizer (data.tokenizer=hf with data.tokenizer_path), or give data.vocab_size={vocab_size} or less"
            )
        if isinstance(length, int) and tokens > length:
            raise ConfigError(
                f"model.path={self.path}: takes at most {length} tokens, but the data has sequences of {tokens}; give data.seq_len={length} or less"
            )

    def identity(self) -> dict[str, Any]:
        knobs = super().identity()
        del knobs["path"], knobs["fresh"], knobs["dropout"]  # a directory may have been moved; what starts anew has no say later
        return knobs

    def blocks(self, module: nn.Module) -> Sequence[nn.Module]:
        from trainer.models.hf_module import decoder_layers

        return decoder_layers(module)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        from trainer.models.cross_entropy import widened_cross_entropy

        return widened_cross_entropy(self.outputs(module, batch), batch["labels"])

    def outputs(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        from trainer.models.hf_module import packing

        return module(input_ids=batch["input_ids"], use_cache=False, **packing(batch)).logits

    def initialise(self, module: nn.Module, leaf: nn.Module) -> None:
        """As transformers does: its rule for the layer, then the rule of the layer's parent (GPT-2 scales some so)."""
        from trainer.models.hf_module import has_weights, initialise, resolve

        initialise(module, leaf, buffers_only=not self.fresh and has_weights(resolve(self)))

    def weights(self) -> Callable[[str], Tensor] | None:
        from trainer.models.hf_module import build, has_weights, open_weights, read_config, resolve

        place = resolve(self)
        if self.fresh or not has_weights(place):
            return None
        return open_weights(place, build(read_config(self), self.path), self.path)

    def attention_size(self, module: nn.Module) -> tuple[int, int]:
        text: Any = module.config.get_text_config()  # type: ignore[union-attr, operator]
        if not hasattr(text, "num_attention_heads"):  # a state space model
            return 0, 0
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return text.num_hidden_layers, text.num_attention_heads * head_dim

    def hugging_face(self, spec: Mapping[str, Any]) -> HuggingFaceForm:
        from trainer.models.hf_module import config_json

        return HuggingFaceForm(config_json(self), str)
