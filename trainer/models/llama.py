"""`model=gpt` as a Llama of transformers, and back. No torch here.

The decoder of trainer/models/gpt_module.py computes what transformers' `LlamaForCausalLM` does: rotary
positions by halves, grouped queries, RMSNorm, SwiGLU, no biases. Only names and knobs are translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.models.gpt import GPT

PREFIX = "model."
HEAD = "lm_head."


def llama_config(model: GPT, spec: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of `model` trained on data of `spec`.

    With the rotary keys of transformers 4, which newer ones and other readers of such files know as well.
    """
    scaling = model.stretching()
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": model.vocab_size or int(spec["vocab_size"]),
        "hidden_size": model.dim,
        "intermediate_size": model.inner_dim(),
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.dim // model.heads,
        "max_position_embeddings": model.max_seq_len or int(spec["seq_len"]),
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": None
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def llama_name(name: str) -> str:
    """The name in `LlamaForCausalLM` of the decoder's parameter `name`."""
    return name if name.startswith(HEAD) else PREFIX + name


def gpt_knobs(config: Any, source: str) -> dict[str, Any]:
    """The knobs of `model=gpt` that make the model of a transformers `LlamaConfig`.

    Raises:
        ConfigError: it is not one that `gpt` can be; says what differs.
    """
    if wrong := _differences(config):
        raise ConfigError(
            f"{source}: is not a Llama that model=gpt can be ({'; '.join(wrong)}). Train it as it is, without importing: model=hf model.path={source}"
        )
    rope = config.rope_parameters
    knobs = {
        "layers": config.num_hidden_layers,
        "dim": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "ffn_dim": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_position_embeddings,
        "rope_theta": float(rope["rope_theta"]),
        "norm_eps": config.rms_norm_eps,
        "tie_embeddings": bool(config.tie_word_embeddings),
    }
    if rope.get("rope_type") == "llama3":
        knobs["rope_scaling"] = {
            "factor": float(rope["factor"]),
            "low_freq_factor": float(rope["low_freq_factor"]),
            "high_freq_factor": float(rope["high_freq_factor"]),
            "original_max_seq_len": int(rope["original_max_position_embeddings"]),
        }
    return knobs


def _differences(config: Any) -> list[str]:
    """What of a transformers config `gpt` does not have."""
    if config.model_type != "llama":
        return [f"model_type is {config.model_type!r}, not 'llama'"]
    wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "head_dim": config.hidden_size // config.num_attention_heads}
    wrong = [f"{key} is {getattr(config, key)!r}, not {value!r}" for key, value in wanted.items() if getattr(config, key) != value]
    if (kind := config.rope_parameters.get("rope_type", "default")) not in ("default", "llama3"):
        wrong.append(f"rope_type is {kind!r}, not 'default' or 'llama3'")
    return wrong
