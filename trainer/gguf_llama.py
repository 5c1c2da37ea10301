"""A GGUF file of the llama architecture as a directory that transformers loads: weights, config, tokenizer.

The format and the names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Quantised
values are dequantised to fp32, which holds them exactly; half precision would round them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import RunError, missing_extra

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SPECIAL = 3  # llama_token_type "control"


def convert(source: Path, directory: Path, title: str) -> None:
    """Write model.safetensors, config.json, tokenizer.json and tokenizer_config.json into `directory`.

    Raises:
        RunError: the file is not of the architecture or kind of tokenizer that is known here.
        ConfigError: a package that this needs is not installed.
    """
    try:
        import gguf
        from safetensors.numpy import save_file
    except ImportError as error:
        raise missing_extra(str(error.name), "hf", "converting a GGUF file") from error
    reader = gguf.GGUFReader(source)
    facts = _facts(reader)
    for key, known in (("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
        if facts.get(key) != known:
            raise RunError(f"{source.name}: {key} is {facts.get(key)!r}, and only {known!r} is known")
    config = llama_config(facts, title, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32", copy=False)
        weights[transformers_name(tensor.name)] = _rows_in_order(tensor.name, values, config)
    file = directory / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt", "title": title})
    file.chmod(0o644)  # safetensors leaves it to its owner, unlike all else in the cache
    _write_json(directory / "config.json", config)
    _write_tokenizer(facts, directory)


def _facts(reader: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def llama_config(facts: Mapping[str, Any], title: str, *, tied: bool) -> dict[str, Any]:
    """The entries of transformers' LlamaConfig."""
    heads = facts["llama.attention.head_count"]
    return {
        "_name_or_path": title,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 12),  # kept in fp32 there
        "rope_theta": facts.get("llama.rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": facts.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
    }


def transformers_name(name: str) -> str:
    """The name that transformers' LlamaForCausalLM gives to GGUF's tensor `name`."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _INSIDE:
        raise RunError(f"the GGUF file has a tensor {name!r}, which is not known")
    return f"model.layers.{match[1]}.{_INSIDE[match[2]]}.weight"


def _rows_in_order(name: str, values: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """llama.cpp rotates neighbours, transformers halves: its converter has permuted the rows of queries and keys; undo that."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return values
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(facts: Mapping[str, Any], directory: Path) -> None:
    """SmolLM's byte-level BPE: digits one by one, then GPT-2's pattern (llama.cpp: LLAMA_VOCAB_PRE_TYPE_SMOLLM)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    types = facts["tokenizer.ggml.token_type"]
    backend.add_special_tokens([AddedToken(token, special=True) for token, kind in zip(tokens, types, strict=True) if kind == _SPECIAL])
    backend.save(str(directory / "tokenizer.json"))

    named = {key: facts.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "unknown", "padding")}
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    entries: dict[str, Any] = {names[key]: tokens[index] for key, index in named.items() if index is not None}
    entries |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": facts["llama.context_length"], "clean_up_tokenization_spaces": False}
    if template := facts.get("tokenizer.chat_template"):
        entries["chat_template"] = template
    _write_json(directory / "tokenizer_config.json", entries)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
