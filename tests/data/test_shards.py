import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.launchers.running import wait_until
from trainer.data.shards import Unit, entropy, units_of, write_shards
from trainer.data.spans import Document, Span, whole_document
from trainer.data.tokenizer import ByteTokenizer
from trainer.errors import RunError, Stopped
from trainer.signals import until_asked


@dataclass(frozen=True)
class Words(Span):
    """A span that says which process read it, or kills that process, or keeps it waiting."""

    text: str
    size: int = 1

    def documents(self) -> Iterator[Document]:
        if self.text == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.text.startswith("wait in "):
            (Path(self.text.removeprefix("wait in ")) / str(os.getpid())).touch()
            time.sleep(1000)
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


def _wait_for_ever(directory: str) -> None:
    (Path(directory) / "pids").mkdir()
    units = [Unit((Words(f"wait in {directory}/pids"),), "train", 0.0) for _ in range(20)]
    write_shards(Path(directory), units, ByteTokenizer(), 257, workers=2)


def _who_waits(directory: Path) -> list[int]:
    """Both processes."""
    wait_until(lambda: len(list(directory.glob("pids/*"))) == 2)
    return [int(path.name) for path in directory.glob("pids/*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_ends_the_processes(number, tmp_path):
    def ask() -> None:
        for pid in (*_who_waits(tmp_path), os.getpid()):  # as a terminal does, to all
            os.kill(pid, number)

    threading.Thread(target=ask).start()
    asked: list[int] = []
    with pytest.raises(Stopped, match=r"^before training began; run the same command to go on$"):
        until_asked(asked, lambda: _wait_for_ever(str(tmp_path)))
    assert asked == [number]
    assert multiprocessing.active_children() == []


def test_the_processes_end_with_who_waits_for_them(tmp_path):
    code = "import sys; from tests.data.test_shards import ByteTokenizer, _wait_for_ever; ByteTokenizer.parallel_from = 0; _wait_for_ever(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as waiting:
        processes = [psutil.Process(pid) for pid in _who_waits(tmp_path)]
        waiting.kill()
    psutil.wait_procs(processes, timeout=30)
    assert not any(process.is_running() for process in processes)


def test_units_are_about_even():
    units = units_of([Words(str(size), size) for size in (5, 6, 30, 1, 2)], None, 0.1, 10)
    assert [[span.size for span in unit.spans] for unit in units] == [[5, 6], [30], [1, 2]]
    assert [unit.size for unit in units] == [11, 30, 3]


def test_entropy():
    assert entropy(np.array([3, 0, 3])) == pytest.approx(math.log(2))
    assert entropy(np.array([7])) == 0
    assert math.isnan(entropy(np.array([0])))
