"""The ranks of one machine, as child processes that do other work than training."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.commands import ROOT
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.errors import Stopped
from trainer.launchers.local import Local
from trainer.launchers.processes import run_children
from trainer.models.gpt import GPT
from trainer.strategies.single import Single

WAIT_SECONDS = 20.0


def wait_to_be_asked(config: Config, place, asked: list[int]) -> None:
    """The ranks' work."""
    end = time.monotonic() + WAIT_SECONDS
    while not asked and time.monotonic() < end:
        time.sleep(0.01)
    raise Stopped(f"{place.launch} was asked to stop by {asked}")


def test_a_stop_that_came_before_the_ranks_were_there_reaches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = Config(run_dir=str(tmp_path), strategy=Single(), model=GPT(), data=Synthetic(), launcher=Local())
    with pytest.raises(Stopped, match=r"^launch 1 was asked to stop by \[15\]$"):
        run_children(Local(), config, 1, "tests.launchers.test_processes:wait_to_be_asked", "launch 1", [signal.SIGTERM])
