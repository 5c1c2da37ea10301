"""Tokenizers: text to ids and back. `tokenizers` is imported only by those that need it."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.assets import resolve_asset
from trainer.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
BESIDE = (CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
"""What transformers keeps beside `FILE`."""


class Tokenizer(ABC):
    """Text to token ids and back. A small value that travels to worker processes."""

    end: int | None
    """The id written after each document; None: nothing is written."""
    size: int
    """All ids are below this."""
    parallel_from: int
    """Bytes of text from which starting worker processes (about a second) pays."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`, a 1-D array of unsigned integers."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, end tokens left out."""


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8 are ids 0 to 255; 256 ends a document."""

    end = 256
    size = 257
    parallel_from = 256 << 20

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


@dataclass(frozen=True)
class FileTokenizer(Tokenizer):
    """A tokenizer.json of the `tokenizers` library."""

    path: Path
    end: int | None
    size: int
    parallel_from = 2 << 20

    def encode(self, text: str) -> np.ndarray:
        [encoded] = _load(self.path).encode_batch_fast([text], add_special_tokens=False)  # fast: without offsets
        return np.asarray(encoded.ids, np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        return _load(self.path).decode([i for i in ids if i != self.end], skip_special_tokens=True)


def open_tokenizer(directory: Path, end: int | None, size: int) -> Tokenizer:
    """The tokenizer whose tokenizer.json is in `directory`; bytes if there is none."""
    path = directory / FILE
    return FileTokenizer(path, end, size) if path.exists() else ByteTokenizer()


@functools.cache
def _load(path: Path) -> Backend:
    """Loaded once per process: parsing a large vocabulary takes a second."""
    backend = library().Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def library() -> Any:
    """The package `tokenizers`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise missing_extra("tokenizers", "hf", "data.tokenizer=bpe or hf") from error
    return tokenizers


def train_bpe(texts: Iterator[str], vocab_size: int, directory: Path) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2) and keep it in `directory`."""
    tokenizers = library()
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.save(str(directory / FILE))
    return FileTokenizer(directory / FILE, backend.token_to_id(END_OF_TEXT), backend.get_vocab_size())


def import_tokenizer(source: Path, end_token: str | None, directory: Path) -> Tokenizer:
    """Copy the tokenizer.json at `source` into `directory`.

    The end token is `end_token`, or the `eos_token` of the tokenizer_config.json beside it, or none.

    Raises:
        ConfigError: the file cannot be used, or has no such token.
    """
    backend, end = _read(source, end_token)
    backend.save(str(directory / FILE))
    return FileTokenizer(directory / FILE, end, max(backend.get_vocab(with_added_tokens=True).values()) + 1)


def _read(source: Path, end_token: str | None) -> tuple[Backend, int | None]:
    """The tokenizer.json at `source`, and the id of its end token."""
    tokenizers = library()
    try:
        backend = tokenizers.Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"data.tokenizer_path: {source}: is not a tokenizer.json: {error}") from error
    name = end_token or _eos_token(source.with_name(CONFIG))
    end = None if name is None else backend.token_to_id(name)
    if name is not None and end is None:
        raise ConfigError(f"data.end_token={name}: the tokenizer {source} has no such token")
    return backend, end


def export_files(source: Path, end_token: str | None, directory: Path) -> int | None:
    """Write the tokenizer.json at `source`, and what transformers keeps beside it, into `directory`.

    The end token is as `import_tokenizer` finds it. Returns its id. Without a tokenizer_config.json one is
    written, so that `AutoTokenizer` reads the directory.

    Raises:
        ConfigError: the file cannot be used, or has no such token.
    """
    backend, end = _read(source, end_token)
    shutil.copyfile(source, directory / FILE)
    for name in BESIDE:
        if (file := source.with_name(name)).is_file():
            shutil.copyfile(file, directory / name)
    if not (directory / CONFIG).exists():
        told = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({} if end is None else {"eos_token": backend.id_to_token(end)})
        (directory / CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return end


def _eos_token(config: Path) -> str | None:
    if not config.exists():
        return None
    token = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    return token["content"] if isinstance(token, dict) else token


def find_tokenizer(path: str) -> Path:
    """The tokenizer.json that `path` names: a file, a directory that holds one, a fetched asset, or a hub id (downloaded once).

    Raises:
        ConfigError: there is none.
    """
    place = Path(resolve_asset("data.tokenizer_path", path))
    if place.is_file():
        return place
    if place.is_dir():
        if (place / FILE).is_file():
            return place / FILE
        raise ConfigError(f"data.tokenizer_path={path}: the directory has no {FILE}")
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hf", f"data.tokenizer_path={path} (no such file or directory, so a hub id)") from error
    try:
        if isinstance(kept := try_to_load_from_cache(path, FILE), str):
            return Path(kept)
        with contextlib.suppress(EntryNotFoundError):  # there need be none; first, so that where FILE is kept this is too
            hf_hub_download(path, CONFIG)
        return Path(hf_hub_download(path, FILE))
    except Exception as error:  # network, permission, name: the hub's own words are the best there are
        raise ConfigError(f"data.tokenizer_path={path}: no such file or directory, and not found on the hub: {error}") from error
