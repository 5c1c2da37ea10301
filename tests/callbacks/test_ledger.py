"""The ledger as the callbacks of a start write it: every second has a part, also of a start that was killed."""

from __future__ import annotations

import json
import mmap
import time

import pytest

from tests.disks import small_disk
from trainer.callbacks.ledger import WRITE_SECONDS, Ledger
from trainer.errors import RunError
from trainer.ledger import LEDGER, LINE_BYTES, PARTS, Start, read, total

LINES_IN_A_PAGE = mmap.PAGESIZE // LINE_BYTES


def test_every_second_has_a_part(tmp_path, run_info, step_info):
    ledger = Ledger(tmp_path)
    ledger.on_start(run_info(first_step=1))
    for step in (1, 2, 3):
        time.sleep(0.02)
        ledger.on_steps([step_info(step, data_seconds=0.005, exchange_seconds=0.01)])
    time.sleep(0.02)
    ledger.on_eval(3, {})
    ledger.on_checkpoint_end(3)
    ledger.on_finish("finished", {})
    ledger.close()
    (start,) = read(tmp_path)
    assert (start.status, start.taken, start.repeated_steps) == ("finished", 3, 0)
    assert start.seconds["data"] == pytest.approx(0.01)  # of two steps: the first counts as start-up
    assert start.seconds["communication"] == pytest.approx(0.02)
    assert start.seconds["compute"] >= 0.01 - 1e-6
    assert start.seconds["evaluation"] >= 0.02
    assert sum(start.seconds.values()) == pytest.approx(start.noted - start.began, abs=len(PARTS) * 1e-6)  # each is written to a millionth


def test_steps_told_together_share_the_time_by_their_lengths(tmp_path, run_info, step_info):
    ledger = Ledger(tmp_path)
    ledger.on_start(run_info(first_step=1))
    time.sleep(0.1)
    # All of the second step is waiting for data, as far as it can be; nothing of the third.
    ledger.on_steps([step_info(step, seconds=seconds, data_seconds=data) for step, seconds, data in ((1, 0.3, 0.0), (2, 0.1, 9.0), (3, 0.6, 0.0))])
    ledger.close()
    (start,) = read(tmp_path)
    assert start.taken == 3
    assert start.seconds["compute"] == pytest.approx(6 * start.seconds["data"], abs=1e-5)
    assert start.seconds["data"] >= 0.01


def test_a_killed_start_leaves_what_it_wrote_last(tmp_path, run_info, step_info):
    ledger = Ledger(tmp_path)
    ledger.on_start(run_info(first_step=1))
    for step in (1, 2, 3, 4):
        time.sleep(WRITE_SECONDS if step == 4 else 0.0)
        ledger.on_steps([step_info(step)])
    assert read(tmp_path)[0].taken == 4  # not closed: the process is killed here
    assert read(tmp_path)[0].status == "running"
    after = Ledger(tmp_path)
    after.on_start(run_info(first_step=3, taken_before=5))  # step 5 had been taken since
    for step in range(3, 8):
        after.on_steps([step_info(step)])
    after.close()
    killed, failed = read(tmp_path)
    assert (killed.status, failed.status) == ("running", "failed")
    assert failed.repeated_steps == 3  # 3, 4, 5
    assert failed.seconds["repeated"] > 0
    assert total([killed, failed]).deaths == 1


def test_a_run_that_is_begun_anew_begins_a_new_ledger(tmp_path, run_info, step_info):
    for anew in (False, True):
        ledger = Ledger(tmp_path)
        ledger.on_start(run_info(first_step=1, anew=anew, taken_before=9))
        ledger.on_steps([step_info(1)])
        ledger.close()
    (start,) = read(tmp_path)
    assert start.repeated_steps == 0


def test_no_start_begins_before_the_last_word_of_the_one_before(tmp_path, run_info):
    """As where its process had been kept ready, idle, for long."""
    began = time.time() - 1000
    for first_step in (1, 3):
        ledger = Ledger(tmp_path)
        ledger.on_start(run_info(first_step=first_step, began=began))
        ledger.close()
    first, second = read(tmp_path)
    assert (first.began, second.began) == (began, first.noted)
    assert total([first, second]).wall == pytest.approx(second.noted - began)


def test_half_a_line_is_passed_over_and_what_follows_is_read(tmp_path, run_info):
    whole = Start(0.0, 10.0, 1, 5, "running", 0, {"compute": 8.0}).to_line()
    assert len(whole) == LINE_BYTES
    (tmp_path / LEDGER).write_bytes(whole + whole[:100])
    ledger = Ledger(tmp_path)
    ledger.on_start(run_info(first_step=1))
    ledger.close()
    assert [start.status for start in read(tmp_path)] == ["running", "failed"]
    assert json.loads((tmp_path / LEDGER).read_bytes()[:LINE_BYTES])["taken"] == 5


def test_a_full_disk_is_said_with_the_file(tmp_path, run_info, step_info):
    disk = tmp_path / "disk"
    with small_disk(disk, 64 * 1024):
        ledger = Ledger(disk)
        ledger.on_start(run_info(first_step=1))
        (disk / "other").write_bytes(bytes(60 * 1024))  # one page is the ledger's, of sixteen
        for step in range(1, 4):
            ledger.on_steps([step_info(step)])  # its line is written over in place: there is always room
        ledger.close()
        assert read(disk)[0].taken == 3
        again = Ledger(disk)
        for _ in range(LINES_IN_A_PAGE - 1):
            again.on_start(run_info(first_step=4))
            again.close()
        with pytest.raises(RunError, match=rf"^{disk}/{LEDGER}: cannot be written \(No space left on device\); make room"):
            again.on_start(run_info(first_step=4))
        again.close()  # what failed has been said
