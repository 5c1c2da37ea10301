"""Short steps are told together, and before whatever comes after them."""

from __future__ import annotations

import pytest

from trainer.callbacks.watchers import TELL_SECONDS, Watchers
from trainer.errors import RunError
from trainer.state import Callback


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self, told, fail=None):
        self._told, self.fail = told, fail

    def _note(self, *what):
        self._told.append(what)
        if what[0] == self.fail:
            raise RunError("no room")

    def on_start(self, run):
        self._note("start")

    def on_steps(self, infos):
        self._note("steps", *[info.step for info in infos])

    def on_eval(self, step, metrics):
        self._note("eval", step)

    def on_checkpoint(self, step, path):
        self._note("checkpoint", step)

    def on_checkpoint_end(self, step):
        self._note("checkpoint end", step)

    def on_finish(self, status, facts):
        self._note("finish", status)

    def close(self):
        self._note("close")


@pytest.fixture
def told():
    return []


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("trainer.callbacks.watchers.time.monotonic", lambda: now[0])
    return now


def test_the_first_step_is_told_at_once_and_short_ones_together(told, clock, step_info):
    watchers = Watchers([Notes(told)])
    for step in (1, 2, 3):
        watchers.on_step(step_info(step))
    assert told == [("steps", 1)]
    clock[0] += TELL_SECONDS
    watchers.on_step(step_info(4))
    watchers.on_step(step_info(5))
    assert told == [("steps", 1), ("steps", 2, 3, 4)]


def test_steps_that_are_long_are_told_one_by_one(told, clock, step_info):
    watchers = Watchers([Notes(told)])
    for step in (1, 2, 3):
        clock[0] += TELL_SECONDS
        watchers.on_step(step_info(step))
    assert told == [("steps", 1), ("steps", 2), ("steps", 3)]


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda watchers, path: watchers.on_eval(3, {}), ("eval", 3)),
        (lambda watchers, path: watchers.on_checkpoint(3, path), ("checkpoint", 3)),
        (lambda watchers, path: watchers.on_checkpoint_end(3), ("checkpoint end", 3)),
        (lambda watchers, path: watchers.on_finish("stopped", {}), ("finish", "stopped")),
        (lambda watchers, path: watchers.close(), ("close",)),
    ],
)
def test_what_comes_after_a_step_is_told_after_it(told, clock, step_info, tmp_path, tell, expected):
    watchers = Watchers([Notes(told)])
    for step in (1, 2, 3):
        watchers.on_step(step_info(step))
    tell(watchers, tmp_path)
    assert told == [("steps", 1), ("steps", 2, 3), expected]


def test_every_callback_is_closed_in_order_whatever_one_raises(told, clock, step_info):
    first, second = Notes(told), Notes(told, fail="close")
    watchers = Watchers([first, second])
    watchers.on_step(step_info(1))
    watchers.on_step(step_info(2))
    first.fail = "steps"  # as on a full disk
    del told[:]
    with pytest.raises(RunError):
        watchers.close()
    assert told == [("steps", 2), ("close",), ("close",)]


def test_without_callbacks_there_is_nobody_to_tell():
    assert not Watchers()
    assert Watchers([Notes([])])
