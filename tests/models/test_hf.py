"""hf: fresh and pre-trained values are those that transformers gives; what cannot be used says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import run_without_torch
from trainer.data.base import IGNORE
from trainer.errors import ConfigError
from trainer.materialise import blueprint
from trainer.models.hf import HF

transformers = pytest.importorskip("transformers")

SPEC = {"vocab_size": 90, "seq_len": 16}
SIZES = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def llama(**changes: Any) -> Any:
    return transformers.LlamaConfig(**{**SIZES, "max_position_embeddings": 64, "eos_token_id": 1, "bos_token_id": 1, **changes})


def gpt2(**changes: Any) -> Any:
    return transformers.GPT2Config(
        **{"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "eos_token_id": 1, "bos_token_id": 1, **changes}
    )


CONFIGS = {
    "llama": llama,
    "tied llama": lambda: llama(tie_word_embeddings=True),
    "gpt2": gpt2,
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "falcon": lambda: transformers.FalconConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
}


@pytest.fixture(params=CONFIGS)
def config(request) -> Any:
    return CONFIGS[request.param]()


def saved(config: Any, place: Path, **options: Any) -> Any:
    """A transformers model with values of its own, written to `place`."""
    torch.manual_seed(3)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    reference.save_pretrained(place, **options)
    return reference


def filled(model: HF, seed: int = 0) -> torch.nn.Module:
    model.validate()
    plan = blueprint(model, SPEC, seed, torch.device("cpu"), torch.float32)
    for block in plan.blocks:
        plan.fill(block)
    plan.fill(plan.module)
    return plan.module.eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 90, (2, 16), generator=torch.Generator().manual_seed(1))


def test_pretrained_values_give_the_same_logits(config, tmp_path):
    reference = saved(config, tmp_path)
    module = filled(HF(path=str(tmp_path)))
    assert torch.equal(module(tokens()).logits, reference(tokens()).logits)
    assert len(list(module.parameters())) == len(list(reference.parameters()))


def test_fresh_values_are_spread_as_transformers_spreads_them(config, tmp_path):
    config.save_pretrained(tmp_path)
    module = filled(HF(path=str(tmp_path)))
    reference = transformers.AutoModelForCausalLM.from_config(config)
    theirs = dict(reference.named_parameters())
    for name, ours in module.named_parameters():
        ours, expected = ours.detach(), theirs[name].detach()
        assert ours.std() == pytest.approx(expected.std().item(), rel=0.15) if expected.std() > 0 else torch.equal(ours, expected), name
    buffers = dict(reference.named_buffers())
    assert all(torch.equal(ours, buffers[name]) for name, ours in module.named_buffers())


def test_gpt2_s_residual_projections_are_scaled_by_their_parent_s_rule(tmp_path):
    gpt2(n_embd=128, n_layer=8).save_pretrained(tmp_path)
    module = filled(HF(path=str(tmp_path)))
    assert module.transformer.h[0].mlp.c_fc.weight.detach().std() == pytest.approx(0.02, rel=0.03)  # type: ignore[union-attr, index]
    assert module.transformer.h[0].mlp.c_proj.weight.detach().std() == pytest.approx(0.02 / 4, rel=0.03)  # type: ignore[union-attr, index]


def test_fresh_values_are_a_function_of_the_seed(tmp_path):
    llama().save_pretrained(tmp_path)
    first, again, other = (filled(HF(path=str(tmp_path / "config.json")), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_fresh_leaves_the_weights_that_are_there(tmp_path):
    reference = saved(llama(), tmp_path)
    assert not torch.equal(filled(HF(path=str(tmp_path), fresh=True)).lm_head.weight, reference.lm_head.weight)  # type: ignore[union-attr]


def test_sharded_files_and_a_bare_decoder_s_names_are_read(tmp_path):
    reference = saved(llama(), tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert torch.equal(filled(HF(path=str(tmp_path / "shards")))(tokens()).logits, reference(tokens()).logits)
    tied = saved(gpt2(), tmp_path / "unused")
    tied.transformer.save_pretrained(tmp_path / "bare")
    assert torch.equal(filled(HF(path=str(tmp_path / "bare")))(tokens()).logits, tied(tokens()).logits)


def test_weights_are_read_one_at_a_time(tmp_path):
    saved(llama(tie_word_embeddings=True), tmp_path)
    read = HF(path=str(tmp_path)).weights()
    assert read is not None
    assert torch.equal(read("lm_head.weight"), read("model.embed_tokens.weight"))
    with pytest.raises(KeyError):
        read("model.rotary_emb.inv_freq")


def test_tied_weights_stay_tied(tmp_path):
    saved(llama(tie_word_embeddings=True), tmp_path)
    for model in (HF(path=str(tmp_path)), HF(path=str(tmp_path), fresh=True)):
        module: Any = filled(model)
        assert module.lm_head.weight is module.model.embed_tokens.weight


def test_loss_sums_over_valid_labels(tmp_path):
    reference = saved(llama(), tmp_path)
    labels = tokens().roll(-1, 1)
    labels[0, 4:] = IGNORE
    model = HF(path=str(tmp_path))
    expected = torch.nn.functional.cross_entropy(reference(tokens()).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(model.loss(filled(model), {"input_ids": tokens(), "labels": labels}), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_packed_documents_give_the_loss_they_give_alone(make, implementation, tmp_path):
    saved(make(), tmp_path)
    model = HF(path=str(tmp_path))
    module: Any = filled(model)
    module.set_attn_implementation(implementation)
    ids = torch.tensor([[0] * 5 + [1] * 11, [3] * 9 + [4] * 7])
    batch = {"input_ids": tokens(), "labels": tokens().roll(-1, 1)}
    pieces = [(0, slice(0, 5)), (0, slice(5, 16)), (1, slice(0, 9)), (1, slice(9, 16))]
    alone = sum(model.loss(module, {key: value[row : row + 1, piece] for key, value in batch.items()}) for row, piece in pieces)
    torch.testing.assert_close(model.loss(module, {**batch, "document_ids": ids}), alone)
    assert not torch.allclose(model.loss(module, batch), torch.as_tensor(alone), rtol=1e-4)


def test_blocks_flops_and_dropout(tmp_path):
    gpt2().save_pretrained(tmp_path)
    model = HF(path=str(tmp_path), dropout=0.25)
    module: Any = model.build(SPEC)
    assert model.blocks(module) == list(module.transformer.h)
    assert {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    numel = sum(p.numel() for p in module.parameters()) - 64 * 32  # the positions are looked up; the tied embedding is multiplied as well
    assert model.flops(module, SPEC)[0] == 6 * numel + 12 * 2 * 32 * 16


def error_of(model: HF, spec: dict[str, int] | None = None) -> str:
    try:
        model.validate()
        blueprint(model, spec or SPEC, 0, torch.device("cpu"), torch.float32)
    except ConfigError as error:
        return str(error)
    return "no error"


def test_no_path():
    assert error_of(HF()).startswith("model.path is not set: give a directory, a hub id, the JSON file of a config, or the name of a fetched asset")


def test_a_path_that_is_not_there(tmp_path):
    assert error_of(HF(path=f"{tmp_path}/none")) == f"model.path={tmp_path}/none: is not there"


def test_a_directory_without_config(tmp_path):
    assert error_of(HF(path=str(tmp_path))) == f"model.path={tmp_path}: the directory has no config.json"


def test_a_config_that_is_none(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    assert error_of(HF(path=str(tmp_path))).startswith(f"model.path={tmp_path}: is not a config that transformers knows: ")
    (tmp_path / "config.json").write_text("{")
    assert error_of(HF(path=str(tmp_path))).startswith(f"model.path={tmp_path}: is not a config that transformers knows: ")


def test_a_config_of_another_kind_of_model(tmp_path):
    transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8).save_pretrained(tmp_path)
    assert error_of(HF(path=str(tmp_path))) == f"model.path={tmp_path}: 'vit' is not a causal language model of transformers"


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert error_of(HF(path="nobody/nothing")).startswith("model.path=nobody/nothing: no such file or directory, and not to be had from the hub: ")


def test_an_asset_that_was_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path))
    assert error_of(HF(path="smollm2")) == "model.path=smollm2: is not there yet; get it with: python -m trainer.fetch smollm2"


def test_pickled_weights_are_refused(tmp_path):
    llama().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    message = (
        f"model.path={tmp_path}: its weights are pickles (pytorch_model.bin), which are not read; convert them to model.safetensors, or give model.fresh=true"
    )
    assert error_of(HF(path=str(tmp_path))) == message
    filled(HF(path=str(tmp_path), fresh=True))


def test_damaged_weights(tmp_path):
    saved(llama(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08")
    assert error_of(HF(path=str(tmp_path))).startswith(f"model.path={tmp_path}: its weights cannot be read: ")


def test_weights_of_another_layout(tmp_path):
    saved(transformers.MixtralConfig(**SIZES, num_local_experts=4), tmp_path)
    assert "parameters missing). Either they are not this model's, or transformers stores 'mixtral' in another layout" in error_of(HF(path=str(tmp_path)))


def test_data_that_does_not_fit(tmp_path):
    llama().save_pretrained(tmp_path)
    model = HF(path=str(tmp_path))
    assert error_of(model, {"vocab_size": 101, "seq_len": 16}) == (
        f"model.path={tmp_path}: has a vocabulary of 100, but the data has token ids up to 100; "
        "tokenise the data with this model's tokenizer (data.tokenizer=hf with data.tokenizer_path), or give data.vocab_size=100 or less"
    )
    assert error_of(model, {"vocab_size": 100, "seq_len": 65}) == (
        f"model.path={tmp_path}: takes at most 64 tokens, but the data has sequences of 65; give data.seq_len=64 or less"
    )


@pytest.mark.parametrize("make", [llama, gpt2, lambda: transformers.LlavaConfig(text_config=llama(), vision_config=transformers.CLIPVisionConfig())])
def test_data_that_does_not_fit_is_found_by_reading_the_config_alone(make, tmp_path):
    make().save_pretrained(tmp_path)
    model = HF(path=str(tmp_path))
    model.check({"vocab_size": 100, "seq_len": 64})
    with pytest.raises(ConfigError, match="has a vocabulary of 100, but the data has token ids up to 100"):
        model.check({"vocab_size": 101, "seq_len": 64})
    with pytest.raises(ConfigError, match=r"takes at most 64 tokens, but the data has sequences of 65; give data.seq_len=64 or less"):
        model.check({"vocab_size": 100, "seq_len": 65})


def test_a_config_that_does_not_say_is_left_to_transformers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv", "context_length": 8, "vocab_size": None}))
    HF(path=str(tmp_path)).check({"vocab_size": 101, "seq_len": 65})
    HF(path="some/hub-id").check(SPEC)


def test_data_that_does_not_fit_is_said_before_anything_starts(tmp_path):
    llama().save_pretrained(tmp_path / "model")
    data = ["data=synthetic", "data.vocab_size=101", "data.seq_len=16"]
    done = run_without_torch("model=hf", "model.path=model", *data, "+strategy=ddp", "launcher.nproc_per_node=2", "train.device=cpu", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: model.path=model: has a vocabulary of 100, but the data has token ids up to 100; "
        "tokenise the data with this model's tokenizer (data.tokenizer=hf with data.tokenizer_path), or give data.vocab_size=100 or less\n"
    )
    assert not list(tmp_path.glob("runs/*/*.log"))
