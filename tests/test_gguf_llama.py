"""A GGUF file made from a known model comes back as that model; real conversion is in test_fetch.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.tiny_gguf import gguf, model, transformers, write_gguf
from trainer.errors import RunError
from trainer.gguf_llama import convert


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_comes_back(tied, tmp_path):
    source = model(tied=tied)
    write_gguf(tmp_path / "tiny.gguf", source)
    convert(tmp_path / "tiny.gguf", tmp_path, "a title")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = dict(source.named_parameters())
    assert [name for name, value in loaded.named_parameters() if not torch.equal(value, expected[name])] == []
    ids = torch.arange(12).view(1, 12)
    assert torch.equal(loaded(ids).logits, source(ids).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["_name_or_path"], config["tie_word_embeddings"], config["rms_norm_eps"]) == ("a title", tied, 1e-5)


def test_quantised_values_are_those_of_the_gguf_package(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    source = model(tied=True)
    write_gguf(tmp_path / "tiny.gguf", source, quantised=name)
    convert(tmp_path / "tiny.gguf", tmp_path, "a title")
    loaded = dict(transformers.AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())[name].detach().numpy()
    original = dict(source.named_parameters())[name].detach().numpy()
    kind = gguf.GGMLQuantizationType.Q4_1
    np.testing.assert_array_equal(loaded, gguf.dequantize(gguf.quants.quantize(original, kind), kind))
    assert 0 < np.abs(loaded - original).max() < 0.01


def test_the_tokenizer_splits_as_smollm_s(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", model(tied=True))
    convert(tmp_path / "tiny.gguf", tmp_path, "a title")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "he he 12 ½ naïve\n<|im_end|>"
    assert tokenizer.tokenize(text)[:6] == ["he", "Ġhe", "Ġ", "1", "2", "Ġ"]
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer(text).input_ids[-1] == 2
    assert tokenizer("he<|endoftext|>").input_ids[-1] == 0
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False) == "he"


def test_another_architecture_is_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", model(tied=True), architecture="falcon")
    with pytest.raises(RunError) as error:
        convert(tmp_path / "tiny.gguf", tmp_path, "a title")
    assert str(error.value) == "tiny.gguf: general.architecture is 'falcon', and only 'llama' is known"


def test_an_unknown_tensor_is_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", model(tied=True), extra="rope_freqs.weight")
    with pytest.raises(RunError) as error:
        convert(tmp_path / "tiny.gguf", tmp_path, "a title")
    assert str(error.value) == "the GGUF file has a tensor 'rope_freqs.weight', which is not known"
