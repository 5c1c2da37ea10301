"""gpt: exact shapes, equality with transformers' Llama, causality, packing, initial values, errors."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

from trainer.config import config_dir
from trainer.data.base import IGNORE
from trainer.errors import ConfigError
from trainer.models.gpt import GPT, RopeScaling

TINY = {"layers": 2, "dim": 32, "heads": 4, "kv_heads": 2, "ffn_dim": 48}
SPEC = {"vocab_size": 50, "seq_len": 24}


def preset(name: str) -> GPT:
    values = yaml.safe_load((Path(config_dir()) / "model" / f"{name}.yaml").read_text())
    assert values.pop("_target_") == "trainer.models.gpt.GPT"
    return GPT(**values)


def built(seed: int = 0, **knobs) -> tuple[GPT, torch.nn.Module]:
    torch.manual_seed(seed)
    model = GPT(**{**TINY, **knobs})
    return model, model.build(SPEC)


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "numel"), [("llama3_8b", 8_030_261_248), ("llama3_70b", 70_553_706_496)])
def test_llama_presets_have_the_published_number_of_parameters(name, numel):
    with torch.device("meta"):
        module = preset(name).build({"vocab_size": 128_256, "seq_len": 8192})
    assert sum(p.numel() for p in module.parameters()) == numel
    assert all(p.is_meta for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "vocab", "millions"), [("gpt", 257, 3.1), ("gpt_1m", 257, 1.0), ("gpt_10m", 257, 10.8), ("gpt_50m", 32_000, 48.5), ("gpt_125m", 50_000, 123.4)]
)
def test_presets_have_the_size_they_are_called_after(name, vocab, millions):
    with torch.device("meta"):
        module = preset(name).build({"vocab_size": vocab, "seq_len": 128})
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scaling", [None, RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=16)])
def test_logits_are_those_of_transformers_llama(tied, scaling):
    transformers = pytest.importorskip("transformers")
    _, module = built(tie_embeddings=tied, rope_scaling=scaling, rope_theta=500.0, norm_eps=1e-6)
    rope: dict = {"rope_type": "default", "rope_theta": 500.0}
    if scaling is not None:
        rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters=rope,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
    )
    reference = transformers.LlamaForCausalLM(config)
    names = {name if name.startswith("lm_head") else f"model.{name}": value for name, value in module.state_dict().items()}
    reference.load_state_dict(names, strict=True)
    torch.testing.assert_close(module(tokens()), reference(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_a_token_sees_none_that_follow():
    _, module = built()
    changed = tokens()
    changed[:, 12:] = (changed[:, 12:] + 1) % 50
    torch.testing.assert_close(module(tokens())[:, :12], module(changed)[:, :12])
    assert not torch.allclose(module(tokens())[:, 12], module(changed)[:, 12])


def test_packed_documents_give_the_logits_they_give_alone():
    _, module = built()
    packed = tokens(1)
    ids = torch.tensor([[0] * 7 + [1] * 9 + [2] * 8])
    alone = torch.cat([module(packed[:, a:b]) for a, b in ((0, 7), (7, 16), (16, 24))], dim=1)
    torch.testing.assert_close(module(packed, document_ids=ids), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module(packed), alone, atol=1e-3)


def test_loss_is_a_sum_over_labels_that_are_not_ignored():
    model, module = built()
    inputs, labels = tokens(), tokens().roll(-1, 1)
    labels[0, 5:] = IGNORE
    logp = module(inputs).log_softmax(-1)
    expected = -sum(logp[b, t, labels[b, t]] for b in range(2) for t in range(24) if labels[b, t] != IGNORE)
    batch = {"input_ids": inputs, "labels": labels}
    torch.testing.assert_close(model.loss(module, batch), expected)
    assert model.count(batch) == 5 + 24


def test_loss_uses_document_ids_of_the_batch():
    model, module = built()
    batch = {"input_ids": tokens(), "labels": tokens().roll(-1, 1)}
    ids = torch.arange(24).div(6, rounding_mode="floor").expand(2, -1)
    assert not torch.allclose(model.loss(module, batch), model.loss(module, {**batch, "document_ids": ids}))


def test_initial_values():
    _, module = built(layers=8, dim=128, ffn_dim=256)
    values = {name: value.detach() for name, value in module.named_parameters()}
    assert values["layers.3.self_attn.q_proj.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert values["embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.03)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert values[f"layers.3.{name}.weight"].std() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
    assert bool((values["norm.weight"] == 1).all())


def test_there_are_no_buffers_that_building_on_meta_or_a_cast_could_spoil():
    assert dict(built()[1].named_buffers()) == {}


def test_fp64_is_computed_in_fp64():
    model, module = built()
    batch = {"input_ids": tokens(), "labels": tokens()}
    wide = model.loss(module.double(), batch)
    assert wide.dtype is torch.float64
    assert model.loss(module.float(), batch).item() != wide.item()


def test_dropout_is_in_training_only():
    _, module = built(dropout=0.5)
    assert not torch.equal(module(tokens()), module(tokens()))
    module.eval()
    assert torch.equal(module(tokens()), module(tokens()))


def test_blocks_are_the_layers_in_order():
    model, module = built()
    assert model.blocks(module) == [module.layers[0], module.layers[1]]


@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_palm_s(tied):
    model, module = built(tie_embeddings=tied)
    blocks = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    assert model.flops(module, SPEC)[0] == 6 * (blocks + 50 * 32) + 12 * 2 * 32 * 24


def test_frozen_parameters_are_those_that_a_pattern_matches():
    model, module = built(freeze=["embed_tokens.*", "*norm*"])
    frozen = [name for name, _ in module.named_parameters() if model.frozen(name)]
    assert frozen[0] == "embed_tokens.weight"
    assert len(frozen) == 1 + 2 * 2 + 1


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"^model.freeze: 'embedding' matches no parameter; they are named like embed_tokens.weight, "):
        built(freeze=["embedding"])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"vocab_size": 40}, "model.vocab_size=40: the data has token ids up to 49; give at least 50, or null"),
        ({"max_seq_len": 16}, "model.max_seq_len=16: the data has sequences of 24; give at least 24, or null"),
    ],
)
def test_data_that_does_not_fit(knobs, message):
    with pytest.raises(ConfigError) as error:
        GPT(**{**TINY, **knobs}).check(SPEC)
    assert str(error.value) == message


def test_data_that_is_not_text():
    with pytest.raises(ConfigError) as error:
        GPT().check({"features": 4, "classes": 2})
    assert str(error.value) == "model=gpt needs text (token ids), but the data has classes, features. Choose data=stdlib or data=text, or another model"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layers": 0}, "model.layers=0: must be at least 1"),
        ({"dim": 30}, "model.heads=4: does not divide model.dim=30"),
        ({"dim": 12}, "model.heads=4: model.dim / model.heads = 3 must be even for rotary positions"),
        ({"kv_heads": 3}, "model.kv_heads=3: does not divide model.heads=4"),
        ({"dropout": 1.0}, "model.dropout=1.0: must be at least 0 and below 1"),
        ({"sample_tokens": -1}, "model.sample_tokens=-1: give 0 (no sample) or more"),
        ({"temperature": -0.5}, "model.temperature=-0.5: give 0 (the most likely token) or more"),
        ({"temperature": math.nan}, "model.temperature=nan: give 0 (the most likely token) or more"),
        ({"rope_theta": 0.0}, "model.rope_theta=0.0: must be a finite number more than 0"),
        ({"rope_theta": math.nan}, "model.rope_theta=nan: must be a finite number more than 0"),
        ({"norm_eps": -1e-5}, "model.norm_eps=-1e-05: must be a finite number, at least 0"),
        ({"norm_eps": math.inf}, "model.norm_eps=inf: must be a finite number, at least 0"),
        ({"rope_scaling": RopeScaling(factor=0)}, "model.rope_scaling.factor=0: must be a finite number more than 0"),
        ({"rope_scaling": RopeScaling(original_max_seq_len=0)}, "model.rope_scaling.original_max_seq_len=0: must be a finite number more than 0"),
        (
            {"rope_scaling": RopeScaling(low_freq_factor=4.0)},
            "model.rope_scaling.high_freq_factor=4.0: must be a finite number more than model.rope_scaling.low_freq_factor=4.0",
        ),
    ],
)
def test_values_that_never_work(knobs, message):
    with pytest.raises(ConfigError) as error:
        GPT(**{**TINY, **knobs}).validate()
    assert str(error.value) == message


def test_part_files_do_not_import_torch():
    code = """
        import sys, trainer.models.gpt, trainer.models.hf, trainer.models.mlp, trainer.models.cnn
        sys.exit(bool({"torch", "transformers", "numpy"} & set(sys.modules)))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0
