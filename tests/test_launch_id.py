"""Which launch a rank belongs to, in real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.commands import ROOT, environment
from trainer import launch_id

ASK = [sys.executable, "-c", "from trainer import launch_id; print(launch_id.from_env())"]
TWICE = f"import subprocess\nfor _ in range(2): subprocess.run({ASK!r})"


def under_one_parent() -> list[str]:
    """What two processes, one after the other, are told that one process starts, as torchrun does."""
    env = environment(TORCHELASTIC_RUN_ID="trainer")
    env.pop(launch_id.VARIABLE, None)
    return subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.split()


def test_torchrun_is_the_same_over_restarts_and_another_the_next_time() -> None:
    first, second = under_one_parent(), under_one_parent()
    assert len({*first, *second}) == 2
    assert (len(set(first)), len(set(second))) == (1, 1)
    assert len(first) == len(second) == 2


def test_other_launchers_pass_one_on_or_start_ranks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (launch_id.VARIABLE, launch_id.RUN_ID):
        monkeypatch.delenv(variable, raising=False)
    assert launch_id.from_env() == ""
    monkeypatch.setenv(launch_id.RUN_ID, "trainer")
    assert len(launch_id.from_env()) == 16
    new = launch_id.new()
    monkeypatch.setenv(launch_id.VARIABLE, new)
    assert launch_id.from_env() == new != launch_id.new()
