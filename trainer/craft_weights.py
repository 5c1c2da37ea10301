"""The published checkpoint of CRAFT, a pickle, as safetensors."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import RunError

PREFIX = "module."  # of the wrapper that it was trained in


def convert(source: Path, directory: Path, title: str) -> None:
    """Write model.safetensors into `directory`. Of the pickle only tensors are read; nothing in it is run.

    Raises:
        RunError: there is something else in it.
    """
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        stored = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(f"{source.name}: holds more than tensors, and is not read") from error
    weights = {name.removeprefix(PREFIX): value.contiguous() for name, value in stored.items()}
    file = directory / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt", "title": title})
    file.chmod(0o644)  # safetensors leaves it to its owner, unlike all else in the cache
