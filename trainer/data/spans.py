"""Parts of text files: which bytes one worker reads, and the documents in them.

A span is a plain value that travels to a worker process; whoever reads it holds at most about
`PIECE` bytes of it at a time. The cut into spans depends on the files alone, never on the workers.
"""

from __future__ import annotations

import codecs
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.data.cache import unreadable
from trainer.errors import ConfigError

PIECE = 1 << 20  # bytes of text handed on at once


@dataclass(frozen=True)
class Document:
    """A document, or the part of a long one that lies in one span."""

    key: bytes
    """What the train/eval split is decided on: the same for all parts of one document."""
    pieces: Iterator[str]
    """Its text in order; to be read before the next document is asked for."""
    starts: bool = True
    """The document's beginning is in this part."""
    ends: bool = True
    """The document's end is in this part."""
    where: str = ""
    """For errors: the file, and line or row."""


class Span(ABC):
    """Part of an input."""

    size: int
    """Bytes of input, for cutting work into even units and for the progress shown."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents in order.

        Raises:
            ConfigError: content that cannot be used, naming the file and line or row.
        """


@dataclass(frozen=True)
class ByteSpan(Span):
    """Bytes [start, stop) of a file."""

    path: Path
    start: int
    stop: int

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.stop - self.start


@dataclass(frozen=True)
class TextSpan(ByteSpan):
    """Part of a text file that is one document."""

    name: str
    length: int
    """Of the whole file."""

    def documents(self) -> Iterator[Document]:
        yield Document(self.name.encode(), self._pieces(), starts=self.start == 0, ends=self.stop == self.length, where=str(self.path))

    def _pieces(self) -> Iterator[str]:
        with open_binary(self.path) as file:
            kept = ""
            for text in _decoded(file, self.path, self.start, self.stop):
                kept += text
                cut = kept.rfind("\n") + 1  # a tokenizer may see more than a letter: do not cut words
                if cut or len(kept) > 4 * PIECE:
                    yield kept[: cut or len(kept)]
                    kept = kept[cut:] if cut else ""
            if kept:
                yield kept


@dataclass(frozen=True)
class SeparatedSpan(ByteSpan):
    """Part of a text file whose documents are set apart by `separator`."""

    separator: str

    def documents(self) -> Iterator[Document]:
        with open_binary(self.path) as file:
            kept = ""
            for text in _decoded(file, self.path, self.start, self.stop):
                *whole, kept = (kept + text).split(self.separator)
                for document in whole:
                    yield from self._document(document)
            yield from self._document(kept)

    def _document(self, text: str) -> Iterator[Document]:
        if text := text.strip("\r\n"):
            yield whole_document(text, str(self.path))


def whole_document(text: str, where: str) -> Document:
    """A document in one piece, split by its content, so that copies never lie on both sides."""
    text = whole_characters(text)
    return Document(hashlib.sha256(text.encode()).digest(), iter((text,)), where=where)


def whole_characters(text: str) -> str:
    """`text`, with U+FFFD as browsers do for half a surrogate pair: JSON can hold one, and it is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_spans(path: Path, name: str, length: int, target: int, separator: str | None) -> list[Span]:
    """A text file of `length` bytes cut into spans of about `target` bytes."""
    if separator is not None:
        return [SeparatedSpan(path, a, b, separator) for a, b in cuts(path, length, target, separator.encode())]
    return [TextSpan(path, a, b, name, length) for a, b in cuts(path, length, target, None)]


def cuts(path: Path, length: int, target: int, separator: bytes | None) -> list[tuple[int, int]]:
    """[start, stop) ranges of about `target` bytes, each but the last ending just after `separator`.

    None: at a line's end if one is near, else between two characters of UTF-8.
    """
    if length <= target:
        return [(0, length)] if length else []
    bounds = [0]
    with open_binary(path) as file:
        while length - bounds[-1] > target:
            at = bounds[-1] + target
            cut = _near_cut(file, at) if separator is None else _after(file, at, length, separator)
            if cut >= length:
                break
            bounds.append(cut)
    return list(zip(bounds, [*bounds[1:], length], strict=True))


def _near_cut(file: BinaryIO, at: int) -> int:
    file.seek(at)
    window = file.read(1 << 16)
    if (found := window.find(b"\n")) >= 0:
        return at + found + 1
    return at + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)


def _after(file: BinaryIO, at: int, length: int, separator: bytes) -> int:
    overlap = len(separator) - 1
    while at < length:
        file.seek(at)
        window = file.read(PIECE + overlap)
        if (found := window.find(separator)) >= 0:
            return at + found + len(separator)
        at += PIECE
    return length


def _decoded(file: BinaryIO, path: Path, start: int, stop: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    file.seek(start)
    at = start
    while at < stop:
        raw = file.read(min(PIECE, stop - at))
        if not raw:
            raise ConfigError(f"{path}: has become shorter while it was read")
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(raw, final=at + len(raw) == stop)
        except UnicodeDecodeError as error:
            offset = at - pending + error.start
            raise ConfigError(f"{path}: is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {offset}") from error
        at += len(raw)


def open_binary(path: Path) -> BinaryIO:
    """Open for reading.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
