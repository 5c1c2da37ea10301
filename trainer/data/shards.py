"""Token shards: per split, one file of ids and one of the positions where documents start.

A unit is a list of spans that one worker tokenises into part files; the parts are appended in
order, so that the result depends on the input alone, and memory on neither.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data import pool
from trainer.data.progress import progress
from trainer.data.spans import Document, Span
from trainer.data.tokenizer import Tokenizer
from trainer.errors import ConfigError

SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Unit:
    """Work for one process."""

    spans: Sequence[Span]
    split: str | None
    """"train" or "eval"; None: each document by the hash of its key."""
    eval_fraction: float

    @property
    def size(self) -> int:
        """Bytes of input."""
        return sum(span.size for span in self.spans)

    def documents(self) -> Iterator[tuple[str, Document]]:
        """(split, document) in order."""
        for span in self.spans:
            for document in span.documents():
                yield self.split or _split_of(document, self.eval_fraction), document


def _split_of(document: Document, eval_fraction: float) -> str:
    number = int.from_bytes(hashlib.sha256(document.key).digest()[:8], "big")
    return "eval" if number < eval_fraction * 2**64 else "train"


def units_of(spans: Sequence[Span], split: str | None, eval_fraction: float, target: int) -> list[Unit]:
    """Group `spans`, in order, into units of about `target` bytes."""
    units: list[Unit] = []
    group: list[Span] = []
    size = 0
    for span in spans:
        group.append(span)
        size += span.size
        if size >= target:
            units.append(Unit(tuple(group), split, eval_fraction))
            group, size = [], 0
    return [*units, Unit(tuple(group), split, eval_fraction)] if group else units


@dataclass
class Part:
    """What one unit gave one split."""

    tokens: int = 0
    documents: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """How often each id occurs."""


class _PartWriter:
    def __init__(self, place: Path, vocab_size: int, tokenizer: Tokenizer) -> None:
        self.ids: BinaryIO = place.with_suffix(".bin").open("wb")
        self.starts: BinaryIO = place.with_suffix(".docs").open("wb")
        self.part = Part(counts=np.zeros(vocab_size, np.int64))
        self.tokenizer, self.dtype = tokenizer, dtype_of(vocab_size)

    def write(self, document: Document) -> None:
        """Append a document; one of fewer than 2 tokens predicts nothing and is left out."""
        end = [] if self.tokenizer.end is None or not document.ends else [self.tokenizer.end]
        fresh = document.starts
        for text in document.pieces:
            ids = self.tokenizer.encode(text)
            if fresh and document.ends and len(ids) + len(end) < 2:
                continue
            if fresh:
                self.starts.write(np.asarray(self.part.tokens, "<i8").tobytes())
                self.part.documents += 1
                fresh = False
            self._append(ids, document)
        if not fresh:
            self._append(np.asarray(end, self.dtype), document)

    def _append(self, ids: np.ndarray, document: Document) -> None:
        if not len(ids):
            return
        vocab_size = len(self.part.counts)
        if (highest := int(ids.max())) >= vocab_size:
            raise ConfigError(f"data.vocab_size={vocab_size}: the tokenizer gave the id {highest} in {document.where}; at least {highest + 1} is needed")
        self.ids.write(ids.astype(self.dtype, copy=False).tobytes())
        self.part.tokens += len(ids)
        self.part.counts += np.bincount(ids, minlength=vocab_size)

    def close(self) -> Part:
        self.ids.close()
        self.starts.close()
        return self.part


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id, little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _tokenise(unit: Unit, place: Path, tokenizer: Tokenizer, vocab_size: int) -> dict[str, Part]:
    """Write `unit` to PLACE.train.bin, PLACE.train.docs, and so for eval."""
    writers = {split: _PartWriter(place.with_name(f"{place.name}.{split}.bin"), vocab_size, tokenizer) for split in SPLITS}
    for split, document in unit.documents():
        writers[split].write(document)
    return {split: writer.close() for split, writer in writers.items()}


def write_shards(directory: Path, units: Sequence[Unit], tokenizer: Tokenizer, vocab_size: int, workers: int) -> dict[str, Any]:
    """Tokenise `units` into `directory` with at most `workers` processes; returns the index's "files" and "splits".

    Raises:
        ConfigError: what reading and tokenising raise.
        RunError: a worker process died.
    """
    total = sum(unit.size for unit in units)
    places = [directory / f"part{number:06d}" for number in range(len(units))]
    counts = {split: np.zeros(vocab_size, np.int64) for split in SPLITS}
    sums = {split: (hashlib.sha256(), hashlib.sha256()) for split in SPLITS}
    whole = {split: Part() for split in SPLITS}
    results = _run(units, places, tokenizer, vocab_size, workers if total >= tokenizer.parallel_from else 1)
    with closing(results), progress("tokenising", total) as advance:
        for unit, place, parts in zip(units, places, results, strict=True):
            for split, part in parts.items():
                _append_part(directory / split, place.with_name(f"{place.name}.{split}"), whole[split].tokens, sums[split])
                whole[split].tokens += part.tokens
                whole[split].documents += part.documents
                counts[split] += part.counts
            advance(unit.size)
    facts = {
        split: {
            "tokens": part.tokens,
            "documents": part.documents,
            "sha256": "".join(part.hexdigest() for part in sums[split]),
            "unigram_entropy": entropy(counts[split]),
        }
        for split, part in whole.items()
    }
    files = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    return {"files": files, "splits": facts, "dtype": dtype_of(vocab_size).str, "vocab_size": vocab_size}


def _run(units: Sequence[Unit], places: Sequence[Path], tokenizer: Tokenizer, vocab_size: int, workers: int) -> Generator[dict[str, Part]]:
    workers = min(workers, len(units))
    if workers <= 1 or not pool.may_start():
        for unit, place in zip(units, places, strict=True):
            yield _tokenise(unit, place, tokenizer, vocab_size)
        return
    with pool.processes(workers, "a process that tokenised the data died (killed, or out of memory?); fewer data.workers need less memory") as submit:
        waiting: deque[Future[dict[str, Part]]] = deque()  # few at a time: results and part files must not pile up
        work = zip(units, places, strict=True)
        while True:
            for unit, place in itertools.islice(work, 4 * workers - len(waiting)):
                waiting.append(submit(_tokenise, unit, place, tokenizer, vocab_size))
            if not waiting:
                return
            yield waiting.popleft().result()


def _append_part(place: Path, part: Path, offset: int, sums: tuple[Any, Any]) -> None:
    """Append PART.bin and PART.docs, whose positions start from 0, to PLACE.bin and PLACE.docs, and take their checksums."""
    for suffix, checksum in zip((".bin", ".docs"), sums, strict=True):
        source_path = part.with_name(part.name + suffix)
        with source_path.open("rb") as source, place.with_suffix(suffix).open("ab") as target:
            while block := source.read(1 << 20):
                if suffix == ".docs":
                    block = (np.frombuffer(block, "<i8") + offset).astype("<i8").tobytes()
                checksum.update(block)
                target.write(block)
        source_path.unlink()


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` gives; 0 for none."""
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum()) if len(shares) else math.nan
