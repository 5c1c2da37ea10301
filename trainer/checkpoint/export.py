"""A checkpoint's model in a form that others read: a Hugging Face directory, or one safetensors file.

The optimizer's state is left out. One tensor is in memory at a time, whatever wrote the checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import read_manifest
from trainer.checkpoint.tensors import Meta, StoredTensors, write_file
from trainer.checkpoint.verify import check
from trainer.config import part_from_plain
from trainer.errors import ConfigError, RunError

MODEL = "model."


def export_hf(path: Path, out: Path, max_shard_bytes: int) -> list[str]:
    """Write the checkpoint at `path` as the directory `out`, which `AutoModelForCausalLM.from_pretrained` loads.

    Returns what there is to say about it.

    Raises:
        ConfigError: the model has no such form, or `out` is there already.
        RunError: the checkpoint is damaged, or `out` cannot be written.
    """
    check(path)
    manifest = read_manifest(path)
    model = part_from_plain(manifest["config"]["model"])
    if "data_spec" not in manifest:
        raise ConfigError(f"{path}: was saved by an earlier version, without what a config.json needs of the data; export it with --format plain")
    form = model.hugging_face(manifest["data_spec"])
    if form is None:
        raise ConfigError(f"{path}: {type(model).__name__} has no Hugging Face form; export it with --format plain")
    tensors = StoredTensors(path)
    names = {form.rename(name.removeprefix(MODEL)): name for name in tensors.metas if name.startswith(MODEL)}
    metas = {name: tensors.metas[stored] for name, stored in sorted(names.items())}
    notes: list[str] = []
    with whole_or_nothing(out) as partial:
        partial.mkdir()
        shards = cut(metas, max_shard_bytes)
        files = ["model.safetensors"] if len(shards) == 1 else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        for file, shard in zip(files, shards, strict=True):
            write_file(partial / file, {name: metas[name] for name in shard}, lambda name: tensors.read(names[name]), {"format": "pt"})
        if len(shards) > 1:
            weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            total = sum(meta.nbytes for meta in metas.values())
            _write_json(partial / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
        end = _tokenizer(manifest, partial, notes)
        _write_json(partial / "config.json", form.config if end is None else {**form.config, "eos_token_id": end})
    return notes


def export_plain(path: Path, out: Path) -> None:
    """Write the checkpoint at `path` as one safetensors file `out`, under canonical names; tied parameters are there once.

    Its metadata has the step, the tokens, and the config of the model as JSON.

    Raises:
        ConfigError: `out` is there already.
        RunError: the checkpoint is damaged, or `out` cannot be written.
    """
    check(path)
    manifest = read_manifest(path)
    tensors = StoredTensors(path)
    metas = {name.removeprefix(MODEL): meta for name, meta in sorted(tensors.metas.items()) if name.startswith(MODEL)}
    told = {"format": "pt", "step": str(manifest["step"]), "tokens": str(manifest["tokens"]), "model": json.dumps(manifest["config"]["model"])}
    with whole_or_nothing(out) as partial:
        write_file(partial, metas, lambda name: tensors.read(MODEL + name), told)


def cut(metas: Mapping[str, Meta], max_bytes: int) -> list[list[str]]:
    """Names in order, a list for each file of at most `max_bytes`; a tensor that is larger has one to itself."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, meta in metas.items():
        if shards[-1] and held + meta.nbytes > max_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += meta.nbytes
    return shards


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to, which becomes `out` at the end, or is removed where that is not reached.

    Raises:
        ConfigError: `out` is there already.
        RunError: it cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already, and is not overwritten; give another name, or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.rename(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            more = "; free space, or give another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise RunError(f"{out}: cannot be written: {error.strerror or error}{more}; nothing is left there") from error
        raise


def _tokenizer(manifest: Mapping[str, Any], directory: Path, notes: list[str]) -> int | None:
    """Write the run's tokenizer into `directory`, where it has one; the id that ends a document."""
    plain = manifest["config"].get("data")
    if plain is None:  # imported
        return None
    before = _names(directory)
    try:
        end = part_from_plain(plain).export_tokenizer(directory)
    except ConfigError as error:
        notes.append(f"without its tokenizer: {error}")
        return None
    if _names(directory) == before:
        what = f"tokens are bytes, and {end} ends a document" if end is not None else "its data has none"
        notes.append(f"without a tokenizer: {what}")
    return end


def _names(directory: Path) -> Sequence[str]:
    return sorted(path.name for path in directory.iterdir())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
