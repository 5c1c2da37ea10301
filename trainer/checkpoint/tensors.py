"""The tensors of safetensors files, one at a time: read from a checkpoint of any number of ranks, written to one file.

The format: https://github.com/huggingface/safetensors#format. Nothing holds more than one tensor.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import MetadataIndex

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Meta:
    """A tensor without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class StoredTensors:
    """Whole tensors of a checkpoint, each put together from its parts when it is asked for."""

    def __init__(self, path: Path) -> None:
        found: Any = HuggingFaceStorageReader(str(path)).read_metadata()
        self._chunks = found.state_dict_metadata
        self._places = found.storage_data
        self._files: dict[str, Any] = {}
        self.metas = {name: Meta(tuple(meta.size), meta.properties.dtype) for name, meta in self._chunks.items()}

    def read(self, name: str) -> Tensor:
        """The whole tensor `name`, on the CPU."""
        meta = self.metas[name]
        whole = torch.empty(meta.shape, dtype=meta.dtype)
        assert sum(chunk.sizes.numel() for chunk in self._chunks[name].chunks) == whole.numel(), name
        for chunk in self._chunks[name].chunks:
            place = self._places[MetadataIndex(name, chunk.offsets)].relative_path
            if place not in self._files:
                self._files[place] = safe_open(place, framework="pt")
            part = tuple(slice(offset, offset + length) for offset, length in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[part] = self._files[place].get_tensor(name)
        return whole


def write_file(path: Path, metas: Mapping[str, Meta], read: Callable[[str], Tensor], metadata: Mapping[str, str]) -> None:
    """Write the tensors of `metas`, each as `read(name)` gives it, as one safetensors file, and see that it is on the disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    metas = dict(sorted(metas.items(), key=lambda item: -item[1].dtype.itemsize))  # wide ones first: each is aligned
    end = 0
    for name, meta in metas.items():
        header[name] = {"dtype": DTYPES[meta.dtype], "shape": list(meta.shape), "data_offsets": [end, end + meta.nbytes]}
        end += meta.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data is aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, meta in metas.items():
            value = read(name)
            assert (tuple(value.shape), value.dtype) == (meta.shape, meta.dtype)
            file.write(value.contiguous().flatten().view(torch.uint8).numpy().data)
            del value  # before the next is read
        file.flush()
        os.fsync(file.fileno())
