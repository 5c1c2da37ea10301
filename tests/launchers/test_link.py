"""The line between a launcher and its ranks, with real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

import pytest

from trainer.launchers import ray_driver
from trainer.launchers.link import Address, Exchange, Line, Stream
from trainer.launchers.ranks import Failure
from trainer.signals import kept

WRONG = Failure(0, "ConfigError", "data.path: is not there", "")
STOPPED = Failure(0, "Stopped", "at step 3", "")
LOST = Failure(0, "RuntimeError", "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711", "")
BROKEN = Failure(0, "ValueError", "a mistake", "Traceback ...")


@pytest.fixture
def exchange():
    made = Exchange("127.0.0.1")
    yield made
    made.close()


def _call(address: Address, rank: int, **other) -> socket.socket:
    line = socket.create_connection((address.host, address.port))
    _say(line, token=address.token, rank=rank, pid=7, host="node1", **other)
    return line


def _say(line: socket.socket, **message) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def _until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_output_comes_in_order_and_other_ranks_are_marked(exchange, capsys):
    lines = [Line(exchange.address, rank, []) for rank in (0, 1)]
    out, err = Stream(lines[0], "out", True), Stream(lines[1], "err", False)
    print("step 1", file=out)
    print("step", 2, file=out)
    print("bar 50%", end="\r", file=out, flush=True)
    print("careful\nthere", file=err)
    for line in lines:
        line.close()
    seen = [""] * 2

    def arrived() -> bool:
        captured = capsys.readouterr()
        seen[0] += captured.out
        seen[1] += captured.err
        return seen == ["step 1\nstep 2\nbar 50%\r", "[rank 1] careful\n[rank 1] there\n"]

    _until(arrived)
    assert (out.isatty(), err.isatty()) == (True, False)
    assert sys.stdout is not out
    assert exchange.died == {}


def test_a_stop_reaches_ranks_now_and_later(exchange):
    early: list[int] = []
    late: list[int] = []
    first = Line(exchange.address, 0, early)
    exchange.ask(15)
    second = Line(exchange.address, 1, late)
    _until(lambda: (early, late) == ([15], [15]))
    first.close()
    second.close()


def test_a_line_that_breaks_is_a_death_and_a_bye_is_none(exchange):
    leaving, dying = _call(exchange.address, 0), _call(exchange.address, 1)
    _say(leaving, bye=True)
    dying.close()
    _until(lambda: exchange.died)
    expected = "ended without a word (process 7 on node1; killed, or out of memory? the kernel's log there says)"
    assert exchange.died == {1: expected}
    leaving.close()


def test_who_is_ended_for_another_s_failure_has_not_died(exchange):
    failing, ended = _call(exchange.address, 0), _call(exchange.address, 1)
    _say(failing, failure=BROKEN.to_json())
    _until(lambda: exchange.failures)
    ended.close()  # at once: Ray ends the others the moment it hears of a failure
    time.sleep(0.2)
    assert exchange.failures == {0: BROKEN}
    assert exchange.died == {}
    failing.close()


@pytest.mark.parametrize("said", [LOST, STOPPED], ids=["lost its peer", "stopped"])
def test_who_dies_has_died_whatever_others_say_first(exchange, said):
    telling, dying = _call(exchange.address, 0), _call(exchange.address, 1)
    _say(telling, failure=said.to_json())
    _until(lambda: exchange.failures)
    dying.close()
    _until(lambda: exchange.died)
    assert list(exchange.died) == [1]
    telling.close()


def test_a_stranger_is_not_listened_to(exchange):
    wrong = Address(exchange.address.host, exchange.address.port, "guess")
    stranger = _call(wrong, 0)
    assert stranger.recv(1) == b""  # hung up
    noise = socket.create_connection((wrong.host, wrong.port))
    noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert noise.recv(1) == b""
    assert (exchange.met, exchange.failures, exchange.died) == (False, {}, {})
    stranger.close()
    noise.close()


@pytest.fixture
def handlers():
    """What handles signals before a test does afterwards."""
    assert threading.current_thread() is threading.main_thread()
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("failure", "ended"), [(STOPPED, False), (WRONG, True)], ids=["stopped", "failed"])
def test_who_still_works_is_ended_after_a_failure_and_not_after_a_stop(failure, ended, exchange, monkeypatch):
    """Rank 0 writes the report when the others have stopped."""
    monkeypatch.setattr(ray_driver, "GRACE_SECONDS", 0.1)
    working, first = _call(exchange.address, 0), _call(exchange.address, 1)
    _say(first, failure=failure.to_json())
    _say(first, bye=True)
    _until(lambda: exchange.failures)
    assert ray_driver._supervise(exchange, lambda: time.sleep(0.6), [], "") is None
    exchange.close()
    working.shutdown(socket.SHUT_WR)
    with working.makefile() as lines:
        assert any("end" in json.loads(line) for line in lines) == ended
    working.close()
    first.close()


def test_a_signal_of_the_launcher_reaches_the_ranks(exchange, handlers):
    asked: list[int] = []
    line = Line(exchange.address, 0, asked)
    _until(lambda: exchange.met)

    def fit() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        _until(lambda: asked)

    with kept([]) as own:
        assert ray_driver._supervise(exchange, fit, own, "") is None
    assert asked == [signal.SIGTERM]
    line.close()
