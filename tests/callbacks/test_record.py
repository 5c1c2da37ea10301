import json
import math

import pytest
import torch

import trainer
from trainer.callbacks.record import RECORD, RunRecord, read_record


def test_start_and_end_of_a_run(tmp_path, run_info):
    record = RunRecord(tmp_path)
    record.on_start(run_info())
    assert read_record(tmp_path)["status"] == "running"
    assert read_record(tmp_path)["ended"] is None
    record.on_finish("finished", {"sample": "text", "eval": {"loss": 1.5}})
    record.close()
    found = read_record(tmp_path)
    assert found["status"] == "finished"
    assert found["started"] <= found["ended"]
    assert found["facts"] == {"sample": "text", "eval": {"loss": 1.5}}
    assert found["run"]["data"]["fingerprint"] == "abc"
    assert found["run"]["strategy"] == "fsdp"
    assert "config" not in found["run"]
    assert "run_dir" not in found["run"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["trainer"] == trainer.__version__
    assert found["hardware"]["device"] == "cpu"
    assert found["hardware"]["memory_bytes"] > 2**28
    assert list(tmp_path.iterdir()) == [tmp_path / RECORD]  # nothing half written is left


def test_a_run_that_ends_without_saying_so_has_failed(tmp_path, run_info):
    record = RunRecord(tmp_path)
    record.on_start(run_info())
    record.close()
    assert read_record(tmp_path)["status"] == "failed"


def test_closing_before_the_start_writes_nothing(tmp_path):
    RunRecord(tmp_path).close()
    assert read_record(tmp_path) == {}


def test_sessions_are_the_starts_whose_steps_are_still_there(tmp_path, run_info):
    for first, ranks in ((1, 2), (21, 4), (11, 1)):  # the last one goes back to before the second
        record = RunRecord(tmp_path)
        record.on_start(run_info(first_step=first, world_size=ranks))
        record.on_finish("stopped", {})
    found = read_record(tmp_path)
    assert [(item["first_step"], item["world_size"]) for item in found["sessions"]] == [(1, 2), (11, 1)]
    record = RunRecord(tmp_path)
    record.on_start(run_info(first_step=1))
    assert len(read_record(tmp_path)["sessions"]) == 1


def test_a_run_has_started_when_its_first_session_did(tmp_path, run_info):
    first = {"started": "2020-01-01T00:00:00+00:00", "first_step": 1}
    (tmp_path / RECORD).write_text(json.dumps({"sessions": [first]}))
    record = RunRecord(tmp_path)
    record.on_start(run_info(first_step=11))
    found = read_record(tmp_path)
    assert found["started"] == found["sessions"][0]["started"] == first["started"] < found["sessions"][1]["started"]


def test_it_is_json_whatever_the_numbers(tmp_path, run_info):
    record = RunRecord(tmp_path)
    record.on_start(run_info(peak_flops=math.nan))
    record.on_finish("finished", {"eval": {"loss": math.inf}, "where": tmp_path})
    found = json.loads((tmp_path / RECORD).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["run"]["peak_flops"] is None
    assert found["facts"] == {"eval": {"loss": None}, "where": str(tmp_path)}
