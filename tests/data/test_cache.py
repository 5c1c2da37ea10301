import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from trainer.data.cache import cache_root, cached, file_stamp
from trainer.errors import ConfigError, RunError

KEY = "0" * 64


def build(text):
    def write(place):
        (place / "data").write_text(text)
        return {"files": {"data": len(text)}, "by": text}

    return write


def test_root(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("TRAINER_CACHE", "/given")
    assert cache_root() == Path("/given")
    monkeypatch.delenv("TRAINER_CACHE")
    assert cache_root() == Path("/xdg/trainer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "trainer"


def test_built_once():
    place, index = cached("kind", KEY, build("first"))
    assert cached("kind", KEY, build("second")) == (place, index)
    assert index["by"] == (place / "data").read_text() == "first"
    assert cached("kind", "1" * 64, build("other"))[1]["by"] == "other"


@pytest.mark.parametrize("damage", [lambda file: file.write_text("fir"), Path.unlink, lambda file: (file.parent / "index.json").write_text("{")])
def test_what_is_damaged_is_built_again(damage):
    place, _ = cached("kind", KEY, build("first"))
    damage(place / "data")
    assert cached("kind", KEY, build("second"))[1]["by"] == (place / "data").read_text() == "second"


def test_a_failed_build_leaves_nothing(cache):
    def fail(place):
        (place / "data").write_text("half")
        raise ConfigError("no")

    with pytest.raises(ConfigError, match=r"^no$"):
        cached("kind", KEY, fail)
    assert [entry.suffix for entry in (cache / "kind").iterdir()] == [".lock"]


def test_a_killed_build_is_not_taken_for_whole_and_cleared_away(cache):
    script = """
        import os, signal
        from trainer.data.cache import cached
        def build(place):
            (place / "data").write_text("half")
            (place / "index.json").write_text('{"files": {"data": 4}, "by": "killed"}')
            os.kill(os.getpid(), signal.SIGKILL)
        cached("kind", "0" * 64, build)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((cache / "kind").glob(".0*"))) == 1  # what it left
    assert cached("kind", KEY, build("whole"))[1]["by"] == "whole"
    assert sorted(entry.name for entry in (cache / "kind").iterdir()) == ["0" * 32, "0" * 32 + ".lock"]


def _open_in_a_process(number, barrier, queue):
    barrier.wait()
    queue.put(cached("kind", KEY, build(f"process {number}"))[1]["by"])


def test_many_processes_at_once_agree():
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open_in_a_process, args=(number, barrier, queue)) for number in range(3)]
    for process in processes:
        process.start()
    assert len({queue.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError) as caught:
        cached("kind", KEY, build("first"))
    assert str(caught.value) == f"{tmp_path}/file/kind: cannot be written: Not a directory; set TRAINER_CACHE to a directory for prepared data"


def test_a_full_disk(cache):
    def fail(place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError) as caught:
        cached("kind", KEY, fail)
    assert str(caught.value) == f"{cache}/kind: No space left on device while preparing data; free space, or set TRAINER_CACHE to a larger disk"


def test_stamps_change_with_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("a")
    stamp = file_stamp(path)
    assert stamp[:2] == [str(path), 1]
    os.utime(path, ns=(0, stamp[2] + 1))
    assert file_stamp(path) != stamp
    with pytest.raises(ConfigError) as caught:
        file_stamp(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path}/none: cannot be read: No such file or directory"
