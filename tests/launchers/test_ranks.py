"""What the ends of the ranks mean together: the message names the culprit, not a victim."""

from __future__ import annotations

import os

import pytest

from tests.disks import fill, small_disk
from trainer.errors import ConfigError, Interrupted, MissingExtra, RunError, Stopped
from trainer.launchers.ranks import ERROR_FILE, Failure, RankDied, how_it_ended, judge, keep_room, prefixed, read_failures, tell_failure


def _failure(rank: int, error: BaseException) -> Failure:
    try:
        raise error
    except BaseException as raised:
        return Failure.from_json(Failure.of(rank, raised).to_json())


LOST = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711")
UNREACHED = RunError("could not reach the other processes at 127.0.0.1:29500 (timed out)")


@pytest.mark.parametrize(
    ("errors", "died", "kind", "message"),
    [
        ({0: LOST}, {1: "was ended by SIGKILL"}, RankDied, "rank 1 died: it was ended by SIGKILL; the other ranks were ended"),
        ({0: ConfigError("no")}, {1: "was ended by SIGSEGV"}, RankDied, "rank 1 died: it was ended by SIGSEGV; the other ranks were ended"),
        ({0: LOST, 1: ConfigError("data.path: is not there")}, {}, ConfigError, "data.path: is not there"),
        ({0: ValueError("first"), 1: RunError("step 3: not finite")}, {}, RunError, "step 3: not finite"),
        ({0: MissingExtra("needs ray")}, {}, ConfigError, "needs ray"),
        ({0: UNREACHED, 1: ValueError("a mistake")}, {}, RankDied, "rank 1 failed: ValueError: a mistake\n\nTraceback"),
        ({0: UNREACHED}, {}, RankDied, "rank 0 failed: could not reach the other processes at 127.0.0.1:29500 (timed out)"),
        ({2: LOST, 3: LOST}, {}, RankDied, f"rank 2 lost the connection to another rank; if that is on another machine, its launcher says why ({LOST})"),
        ({0: LOST, 2: ValueError("a mistake")}, {}, RankDied, "rank 2 failed: ValueError: a mistake\n\nTraceback"),
        ({0: Stopped("at step 3"), 1: Stopped("at step 3")}, {}, Stopped, "at step 3"),
        ({0: KeyboardInterrupt()}, {}, Interrupted, "interrupted twice, so ended at once; what the last checkpoint holds is kept"),
    ],
)
def test_the_culprit_is_named(errors, died, kind, message):
    failures = {rank: _failure(rank, error) for rank, error in errors.items()}
    with pytest.raises(kind) as raised:
        judge(failures, died)
    assert type(raised.value) is kind
    assert str(raised.value).startswith(message)


def test_no_failure_is_none():
    judge({}, {})


def test_of_two_explanations_the_first_in_time_is_said(tmp_path):
    paths = [tmp_path / f"rank-{rank}.json" for rank in range(3)]
    for rank, seconds in ((0, 7), (2, 3)):
        paths[rank].write_text(_failure(rank, RunError(f"of rank {rank}")).to_json())
        os.utime(paths[rank], (seconds, seconds))
    failures = read_failures(paths)
    assert list(failures) == [2, 0]
    with pytest.raises(RunError, match="of rank 2"):
        judge(failures, {})


def test_how_a_process_ended():
    assert how_it_ended(-9) == "was ended by SIGKILL (out of memory? the kernel's log says)"
    assert how_it_ended(-11) == "was ended by SIGSEGV"
    assert how_it_ended(3) == "ended with exit status 3"


def test_every_line_gets_its_rank():
    assert prefixed(3, "a\nb\n") == "[rank 3] a\n[rank 3] b\n"


@pytest.mark.parametrize("message", ["a reason", "\U0001f4be" * 6000])
def test_a_failure_is_written_down_on_a_full_disk(message, tmp_path, monkeypatch):
    record = tmp_path / "disk" / "rank-1.json"
    monkeypatch.setenv(ERROR_FILE, str(record))
    with small_disk(tmp_path / "disk", 1 << 20):
        keep_room(record)
        fill(tmp_path / "disk")
        tell_failure(1, RunError(message))
        told = read_failures([record])
        assert sorted(path.name for path in record.parent.iterdir()) == ["filling", "rank-1.json"]
    assert (list(told), told[1].kind) == ([1], "RunError")
    assert message.startswith(told[1].message)
    assert len(told[1].message) >= min(len(message), 2000)
    assert told[1].trace.endswith(message[-100:] + "\n")
