import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from trainer.data.shards import Unit, entropy, units_of, write_shards
from trainer.data.spans import Document, Span, whole_document
from trainer.data.tokenizer import ByteTokenizer
from trainer.errors import RunError


@dataclass(frozen=True)
class Words(Span):
    """A span that says which process read it, or kills that process."""

    text: str
    size: int = 1

    def documents(self) -> Iterator[Document]:
        if self.text == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        yield whole_document(f"{self.text} {os.getpid()}", "here")


@pytest.fixture(autouse=True)
def processes_from_the_first_byte(monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "parallel_from", 0)


def test_several_processes_read_and_the_order_stays(tmp_path):
    units = [Unit((Words(f"{number:02d}"),), "train", 0.0) for number in range(40)]
    write_shards(tmp_path, units, ByteTokenizer(), 257, workers=2)
    words = bytes(np.fromfile(tmp_path / "train.bin", "<u2").astype(np.uint8)).decode().split("\0")[:-1]
    assert [word.split()[0] for word in words] == [f"{number:02d}" for number in range(40)]
    assert str(os.getpid()) not in {word.split()[1] for word in words}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.bin", "eval.docs", "train.bin", "train.docs"]


def test_a_process_that_dies_is_an_error(tmp_path):
    units = [Unit((Words(text),), "train", 0.0) for text in ("a", "kill", "b", "c")]
    with pytest.raises(RunError) as caught:
        write_shards(tmp_path, units, ByteTokenizer(), 257, workers=2)
    assert str(caught.value) == "a process that tokenised the data died (killed, or out of memory?); fewer data.workers need less memory"


def test_units_are_about_even():
    units = units_of([Words(str(size), size) for size in (5, 6, 30, 1, 2)], None, 0.1, 10)
    assert [[span.size for span in unit.spans] for unit in units] == [[5, 6], [30], [1, 2]]
    assert [unit.size for unit in units] == [11, 30, 3]


def test_entropy():
    assert entropy(np.array([3, 0, 3])) == pytest.approx(math.log(2))
    assert entropy(np.array([7])) == 0
    assert math.isnan(entropy(np.array([0])))
