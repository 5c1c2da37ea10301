"""Where a run's time went: parts that sum to the wall time, over deaths and restarts, and the steps that were done twice."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from torch import Tensor, nn

from tests import ranks, tiny
from tests.launchers.running import losses, run
from tests.test_bad_steps import ROLLBACK, nan_in, run_all
from tests.tiny import Tiny
from trainer.ledger import PARTS, Start, read, total
from trainer.sections import CheckpointConfig, EvalConfig
from trainer.strategies.single import Single


def test_a_run_that_is_killed_and_started_again(tmp_path):
    began = time.time()
    trouble = ["model.how=kill", "model.at=6", f"model.once={tmp_path}/once", "run.max_restarts=1"]
    status, out, err = run("+strategy=ddp", "launcher.nproc_per_node=2", "train.max_steps=8", "checkpoint.every=3", "run_dir=x", *trouble, cwd=tmp_path)
    ended = time.time()
    assert status == 0, err
    first, second = starts = read(tmp_path / "x")
    totals = total(starts)
    assert (first.status, second.status) == ("failed", "finished")
    assert (first.first_step, second.first_step, second.taken) == (1, 4, 8)
    assert (first.repeated_steps, second.repeated_steps) == (0, 2)  # 4 and 5: rank 1 was killed in step 6, before its optimizer step
    assert totals.wall == pytest.approx(second.noted - first.began)
    assert began <= first.began + 0.05  # a process's beginning is known to a hundredth of a second
    assert first.noted < second.began < second.noted <= ended
    assert totals.seconds["restart"] == pytest.approx(second.began - first.noted)
    assert all(totals.seconds[part] > 0 for part in PARTS if part not in ("evaluation", "data"))
    assert totals.deaths == 1
    assert sum(second.seconds.values()) == pytest.approx(second.noted - second.began)
    assert [step for step, _, _ in losses(tmp_path / "x")] == list(range(1, 9))
    assert re.search(r"^time +\d+\.\d% of 0:\d\d:\d\d over 2 starts in effective training; .*start-up \d+\.\d%.*; 2 steps done twice$", out, re.MULTILINE)
    assert "Where the time went" in (tmp_path / "x" / "report.html").read_text()


@dataclass(kw_only=True)
class LongToJudge(Tiny):
    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(0.1)
        return super().metrics(module, batch)


def test_an_evaluation_after_short_steps_is_not_their_time(tmp_path):
    config = dataclasses.replace(tiny.config(Single(), tmp_path, model=LongToJudge()), eval=EvalConfig(every=4, batch_size=4, at_end=False))
    batches = -(-len(config.data.open("eval")) // config.eval.batch_size)
    assert ranks.run(1, run_all, [config]) == [["done"]]
    (start,) = read(tmp_path)
    assert start.seconds["evaluation"] >= 0.1 * batches
    assert start.seconds["compute"] < 0.1 * batches


def test_a_stop_that_was_asked_for_is_no_lost_time():
    starts = [Start(0.0, 10.0, 1, 5, "stopped", 0, {"compute": 8.0, "start_up": 2.0}), Start(100.0, 110.0, 6, 9, "finished", 0, {"compute": 10.0})]
    totals = total(starts)
    assert (totals.away, totals.wall, totals.effective, totals.deaths) == (90.0, 20.0, 0.9, 0)
    starts[0].status = "running"
    totals = total(starts)
    assert (totals.away, totals.wall, totals.effective, totals.deaths) == (0.0, 110.0, 18 / 110, 1)


def test_later_starts_of_one_process_begin_when_they_do(tmp_path):
    """A run that goes back, though `checkpoint.resume=never` stands in its config, and then another one, as of a sweep."""
    earlier, back, other = (tiny.config(Single(), tmp_path / name, model=nan_in(4), max_bad_steps=0, **ROLLBACK) for name in ("back", "back", "other"))
    back = dataclasses.replace(back, checkpoint=CheckpointConfig(every=2, resume="never"))
    other = dataclasses.replace(other, checkpoint=CheckpointConfig(resume="never"))
    began = time.time()
    assert ranks.run(1, run_all, [earlier, back, other]) == [["done"] * 3]
    ended = time.time()
    first, second = read(tmp_path / "back")
    assert (first.status, first.first_step, first.taken) == ("failed", 1, 3)
    assert (second.status, second.first_step, second.taken) == ("finished", 3, 6)
    assert (first.repeated_steps, second.repeated_steps) == (0, 1)  # step 3
    third, fourth = read(tmp_path / "other")
    assert (third.first_step, fourth.first_step, fourth.repeated_steps) == (1, 1, 3)  # it goes back to the start
    moments = [began, first.began, first.noted, second.began, second.noted, third.began, third.noted, fourth.began, fourth.noted, ended]
    assert moments == sorted(moments)
