"""The ranks' records, beside files that are none: what an earlier start has left must not end a healthy run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.commands import ROOT, environment
from tests.disks import not_mounted
from tests.launchers.running import wait_until
from trainer.doctor.record import RankRecord, directory, process_start, read, stacks_path, write
from trainer.doctor.sight import Life, look
from trainer.doctor.stacks import collect
from trainer.doctor.watch import stalled
from trainer.run_lock import machine


def record(rank: int, pid: int, **changes: Any) -> RankRecord:
    now = time.time()
    values = {
        "host": socket.gethostname(),
        "machine": machine(),
        "process_start": process_start(pid),
        "started": now,
        "interval": 1.0,
        "written": now,
        "changed": now - 100,
    }
    return RankRecord(**{"rank": rank, "world_size": 2, "pid": pid, **values, **changes})


def put(run_dir: Path, *records: RankRecord) -> None:
    directory(run_dir).mkdir()
    for item in records:
        write(run_dir, item)
        stacks_path(run_dir, item.rank).touch()


def test_records_that_cannot_be_read_are_left_out(tmp_path):
    put(tmp_path, record(0, os.getpid()), record(1, os.getpid()))
    whole = asdict(record(7, os.getpid()))
    texts = ["", "[]", "null", json.dumps({"rank": 5}), json.dumps({**whole, "more": 1}), json.dumps({**whole, "recent": [{"name": "barrier"}]}), "\x00" * 9]
    for rank, text in enumerate(texts, 3):
        (directory(tmp_path) / f"rank-{rank}.json").write_text(text)
    (directory(tmp_path) / "rank-20.json").mkdir()  # an error of the file system
    (directory(tmp_path) / "rank-21.json").write_bytes(b"\xff\xfe")
    assert sorted(read(tmp_path)) == [0, 1]
    assert [sight.rank for sight in stalled(tmp_path, 60)] == [0, 1]
    assert stalled(tmp_path, 200) == []


def test_waiting_for_others_to_come_is_no_stall_and_hides_none(tmp_path):
    put(tmp_path, record(0, os.getpid(), phase="meeting"), record(1, os.getpid(), phase="meeting"))
    assert stalled(tmp_path, 60) == []
    write(tmp_path, record(1, os.getpid(), phase="start-up"))
    assert [sight.rank for sight in stalled(tmp_path, 60)] == [0, 1]


def test_a_rank_without_a_file_for_its_stacks_has_none(tmp_path):
    with subprocess.Popen(["sleep", "100"]) as rank:
        put(tmp_path, record(0, rank.pid))
        stacks_path(tmp_path, 0).unlink()
        try:
            assert collect(tmp_path, look(tmp_path)) == {}
        finally:
            rank.kill()


def test_no_signal_goes_to_a_process_that_may_be_another(tmp_path):
    """As on a system without /proc, where a process id may have been taken by another program since."""
    with subprocess.Popen(["sleep", "100"]) as other:
        put(tmp_path, record(0, other.pid, process_start=None, written=time.time() - 100))
        seen = look(tmp_path)
        assert [(sight.life, sight.here) for sight in seen] == [(Life.SILENT, True)]
        try:
            assert collect(tmp_path, seen) == {}
            assert other.poll() is None
        finally:
            other.kill()


def test_a_rank_killed_before_its_second_record_is_seen_and_one_of_an_earlier_start_is_not(tmp_path):
    now = time.time()
    with subprocess.Popen(["true"]) as gone:
        dead = record(1, gone.pid, started=now - 3, written=now - 3)
    for phase, seen in [("forward/backward", [0, 1]), ("save", [0, 1]), ("", [0]), ("start-up", [0]), ("meeting", [0])]:
        run_dir = tmp_path / (phase.replace("/", "-") or "none")
        run_dir.mkdir()
        put(run_dir, dead, record(0, os.getpid(), started=now - 2, phase=phase))
        assert [sight.rank for sight in look(run_dir)] == seen


def test_a_rank_elsewhere_is_judged_by_what_it_writes_alone_also_under_the_same_host_name(tmp_path):
    """Its process id means nothing here: there is no such process, or it is another program's."""
    now, elsewhere = time.time(), {"machine": "boot pid:[1]", "process_start": 1}
    put(tmp_path, record(0, 1, **elsewhere), record(1, os.getpid(), written=now - 100, **elsewhere))
    seen = look(tmp_path)
    assert [(sight.life, sight.here) for sight in seen] == [(Life.RUNNING, False), (Life.SILENT, False)]
    assert collect(tmp_path, seen) == {}  # nor is it sent a signal


def test_a_rank_in_a_container_of_this_machine_is_not_taken_for_dead(tmp_path):
    """A real one: with process ids of its own, and this machine's host name."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if sys.platform != "linux" or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        not_mounted("no process namespace")
    made = f"Recorder(Path({str(tmp_path)!r}), 0, 1, 60)"
    code = f"import time\nfrom pathlib import Path\nfrom trainer.doctor.recorder import Recorder\nrank = {made}\ntime.sleep(300)"
    with subprocess.Popen([*unshare, sys.executable, "-c", code], cwd=ROOT, env=environment()) as rank:
        try:
            wait_until(lambda: read(tmp_path), rank)
            (sight,) = look(tmp_path)
            assert (sight.record.host, sight.record.pid) == (socket.gethostname(), 1)
            assert (sight.life, sight.here) == (Life.RUNNING, False)
        finally:
            rank.kill()
