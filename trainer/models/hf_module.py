"""Reading a model of transformers: its config, its module on the meta device, its weights tensor by tensor."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.assets import resolve_asset
from trainer.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from trainer.models.hf import HF

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def resolve(model: HF) -> Path:
    """The directory or config file that `model.path` names; a hub id is downloaded (once for all processes).

    Raises:
        ConfigError: it cannot be had.
    """
    assert model.path is not None
    place = Path(resolve_asset("model.path", model.path))
    return place if place.exists() else _from_hub(model.path, model.fresh)


@functools.cache
def _from_hub(name: str, config_only: bool) -> Path:
    """Asked once per process: the hub answers over the network even for what is already here."""
    _transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json"] if config_only else ["*.json", "*.safetensors"]))
    except Exception as error:  # network, permission, a name that is not one: the hub's own words are the best there are
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={name}: no such file or directory, and not to be had from the hub: {reason}") from error


def read_config(model: HF) -> Any:
    """The transformers config that `model.path` names, with `model.dropout` applied."""
    place = resolve(model)
    try:
        config = _transformers().AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={model.path}: is not a config that transformers knows: {reason}") from error
    if model.dropout is not None:
        for name, value in config.to_dict().items():
            if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, float | int) and not isinstance(value, bool):
                setattr(config, name, model.dropout)
    return config


def build(config: Any, path: str | None) -> nn.Module:
    """The causal language model of `config` on the meta device, in fp32, tied as the config says.

    Raises:
        ConfigError: it has no causal language model.
    """
    with torch.device("meta"):
        try:
            return _transformers().AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise ConfigError(f"model.path={path}: {config.model_type!r} is not a causal language model of transformers") from error


def config_json(model: HF) -> dict[str, Any]:
    """The content of config.json for `model`, whose weights are fp32."""
    config = read_config(model)
    config.architectures = [type(build(config, model.path)).__name__]
    config.dtype = "float32"
    return json.loads(config.to_json_string(use_diff=True))


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """The repeated layers: those of the `ModuleList` with the most parameters."""
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    return list(max(lists, key=lambda m: sum(p.numel() for p in m.parameters()), default=()))


def packing(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For packed documents: a mask added to the attention scores, and positions that restart. Else nothing.

    The mask is (batch, 1, length, length), 0 where a key is seen and the least fp32 elsewhere.
    """
    document_ids = batch.get("document_ids")
    if document_ids is None:
        return {}
    from trainer.models.gpt_module import document_mask

    seen = document_mask(document_ids)
    hidden = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)
    index = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return {"attention_mask": hidden, "position_ids": index - torch.where(starts, index, 0).cummax(1).values}


def initialise(module: nn.Module, leaf: nn.Module, *, buffers_only: bool) -> None:
    """Initial values of what `leaf` itself owns; with `buffers_only`, of its buffers that are not saved.

    transformers passes over a tensor that is marked `_is_hf_initialized`: so everything else is marked.

    Raises:
        ConfigError: transformers leaves some of it without a value.
    """
    parent = next((m for m in module.modules() if any(child is leaf for child in m.children())), None)
    unsaved = leaf._non_persistent_buffers_set
    own = {name: t for name, t in (*leaf._parameters.items(), *leaf._buffers.items()) if t is not None}
    todo = {name: t for name, t in own.items() if not buffers_only or name in unsaved}
    kept = [t for t in own.values() if all(t is not other for other in todo.values())]
    if parent is not None:
        kept += [t for t in (*parent.parameters(), *parent.buffers()) if all(t is not other for other in own.values())]
    for tensor in kept:
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for tensor in todo.values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    try:
        for owner in (leaf, parent):
            if owner is not None:
                module._init_weights(owner)  # type: ignore[operator]
    finally:
        for tensor in kept:
            del tensor._is_hf_initialized  # type: ignore[attr-defined]
    for name, tensor in todo.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ConfigError(f"model.path: transformers has no initial value for {name!r} of {type(leaf).__name__}; give a directory with weights")


def has_weights(place: Path) -> bool:
    """Whether there are weights at `place`.

    Raises:
        ConfigError: there are, but only as pickles, which can run any code when they are read.
    """
    if not place.is_dir():
        return False
    if (place / SINGLE).is_file() or (place / INDEX).is_file():
        return True
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in place.glob(pattern))
    if pickles:
        raise ConfigError(f"model.path={place}: its weights are pickles ({pickles[0]}), which are not read; convert them to {SINGLE}, or give model.fresh=true")
    return False


def open_weights(place: Path, module: nn.Module, path: str | None) -> Callable[[str], Tensor]:
    """A function from a parameter's name in `module` to its value, read from safetensors when it is called.

    A tied parameter is found under any of its names, and names without the model's prefix (as in
    checkpoints of the bare decoder) are found as well.

    Raises:
        ConfigError: the files lack some parameter, or one is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    files: dict[str, Any] = {}
    try:
        for file in _weight_files(place):
            handle: Any = safe_open(file, framework="pt")
            files.update(dict.fromkeys(handle.keys(), handle))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"model.path={path}: its weights cannot be read: {error}") from error
    prefix = f"{module.base_model_prefix}."
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    sources: dict[str, str] = {}
    for names in [*groups.values(), *([name] for name in module.state_dict() if name in dict(module.named_buffers()))]:
        found = next((key for name in names for key in (name, name.removeprefix(prefix)) if key in files), None)
        if found is not None:
            sources.update(dict.fromkeys(names, found))
    missing = [name for name, _ in module.named_parameters() if name not in sources]
    if missing:
        raise ConfigError(
            f"model.path={path}: its weights have no {missing[0]!r} ({len(missing)} parameters missing). Either they are not this model's, or "
            f"transformers stores {module.config.model_type!r} in another layout than it computes in, which is not read here; "  # type: ignore[union-attr]
            "model.fresh=true starts without them"
        )
    return lambda name: files[sources[name]].get_tensor(sources[name])


def _weight_files(place: Path) -> list[Path]:
    if (place / INDEX).is_file():
        names = set(json.loads((place / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return [place / Path(name).name for name in sorted(names)]
    return [place / SINGLE]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "hf", "model=hf") from error
    return transformers
