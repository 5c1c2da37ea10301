"""A Llama in a Hugging Face directory as the first checkpoint of a run of `model=gpt`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import torch

import trainer
from trainer.checkpoint.directory import FORMAT_VERSION, MANIFEST, directory, list_whole, sealed, sha256
from trainer.checkpoint.export import MODEL, whole_or_nothing
from trainer.checkpoint.tensors import Meta, write_file
from trainer.config import to_plain
from trainer.data.tokenizer import FILE as TOKENIZER
from trainer.errors import ConfigError
from trainer.models.gpt import GPT, RopeScaling
from trainer.models.hf import HF
from trainer.models.hf_module import build, has_weights, open_weights, read_config, resolve
from trainer.models.llama import gpt_knobs, llama_name
from trainer.writing import write_whole

FILE = "shard-00001-model-00001-of-00001.safetensors"


def import_hf(source: str, run_dir: Path) -> list[str]:
    """Make a checkpoint of step 0 in `run_dir` from the Llama at `source`; returns the overrides that train on from it.

    Values become fp32; the optimizer starts anew.

    Raises:
        ConfigError: it is not a Llama that `gpt` can be, has no weights, or `run_dir` has checkpoints.
    """
    if list_whole(run_dir):
        raise ConfigError(f"{run_dir}: has checkpoints already; import into a new run directory")
    hf = HF(path=source)
    hf.validate()
    place, config = resolve(hf), read_config(hf)
    knobs = gpt_knobs(config, source)
    if not has_weights(place):
        raise ConfigError(f"{source}: has no weights (model.safetensors, or its index) to import")
    weights = open_weights(place, build(config, source), source)
    scaling = knobs.pop("rope_scaling", None)
    model = GPT(**knobs, rope_scaling=RopeScaling(**scaling) if scaling else None)
    spec = {"vocab_size": model.vocab_size, "seq_len": model.max_seq_len}
    with torch.device("meta"):
        module = model.build(spec)
    metas = {MODEL + name: Meta(tuple(parameter.shape), torch.float32) for name, parameter in module.named_parameters()}

    def read(name: str) -> torch.Tensor:
        value = weights(llama_name(name.removeprefix(MODEL)))
        if tuple(value.shape) != metas[name].shape:
            raise ConfigError(f"{source}: {name} is {tuple(value.shape)}, and its config.json makes it {metas[name].shape}")
        return value.to(torch.float32)

    path = directory(run_dir, 0)
    with whole_or_nothing(path) as partial:
        partial.mkdir()
        write_file(partial / FILE, metas, read, {"format": "pt"})
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": 0,
            "tokens": 0,
            "files": {FILE: sha256(partial / FILE)},
            "strategy": "imported",
            "world_size": 1,
            "versions": {"trainer": trainer.__version__, "torch": torch.__version__},
            "imported_from": source,
            "data_spec": spec,
            "config": {"model": to_plain(model)},
        }
        write_whole(partial / MANIFEST, json.dumps(sealed(manifest), indent=2))
    tokenizer = ["data.tokenizer=hf", f"data.tokenizer_path={source}"] if (place / TOKENIZER).is_file() else []
    return [f"run_dir={run_dir}", "model=gpt", *overrides(model, knobs), *tokenizer]


def overrides(model: GPT, knobs: Iterable[str]) -> list[str]:
    """What makes `model=gpt` this `model`: its `knobs`, as they are given on a command line."""
    given = {name: getattr(model, name) for name in knobs}
    if (scaling := model.stretching()) is not None:
        given |= {f"rope_scaling.{name}": value for name, value in dataclasses.asdict(scaling).items()}
    return [f"model.{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]
