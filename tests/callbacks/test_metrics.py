import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disks import small_disk
from trainer.callbacks.metrics import EVALS, METRICS, Metrics, cut_back, finite, read
from trainer.callbacks.record import RECORD, RunRecord
from trainer.callbacks.report import Report
from trainer.errors import RunError


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_every_step_is_on_disk_at_once_with_every_field(tmp_path, run_info, step_info):
    metrics = Metrics(tmp_path)
    metrics.on_start(run_info())
    info = step_info(1)
    metrics.on_steps([info])
    metrics.on_eval(1, {"loss": 1.5, "accuracy": 0.25})
    assert json.loads((tmp_path / METRICS).read_text()) == info._asdict()  # before close
    assert json.loads((tmp_path / EVALS).read_text()) == {"step": 1, "loss": 1.5, "accuracy": 0.25}
    metrics.close()


def test_numbers_that_are_not_finite_are_null(tmp_path, run_info, step_info):
    metrics = Metrics(tmp_path)
    metrics.on_start(run_info())
    metrics.on_steps([step_info(1, loss=math.nan, grad_norm=math.inf, mfu=-math.inf)])
    metrics.close()
    text = (tmp_path / METRICS).read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (record["loss"], record["grad_norm"], record["mfu"], record["lr"]) == (None, None, None, 1e-3)


def test_finite_reaches_into_what_is_nested():
    assert finite({"a": [1.0, math.nan], "b": {"c": (math.inf, "x", 2)}}) == {"a": [1.0, None], "b": {"c": [None, "x", 2]}}


def test_resume_cuts_both_files_back_to_the_checkpoint(tmp_path, run_info, step_info):
    for first, last in ((1, 8), (6, 10)):
        metrics = Metrics(tmp_path)
        metrics.on_start(run_info(first_step=first))
        for step in range(first, last + 1):
            metrics.on_steps([step_info(step, loss=float(first))])
            metrics.on_eval(step, {"loss": 1.0})
        metrics.close()
    assert steps(tmp_path / METRICS) == steps(tmp_path / EVALS) == list(range(1, 11))
    assert [record["loss"] for record in read(tmp_path / METRICS)] == [1.0] * 5 + [6.0] * 5


def test_a_run_from_the_start_leaves_nothing_of_the_one_before(tmp_path, run_info, step_info):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}\n')
    metrics = Metrics(tmp_path)
    metrics.on_start(run_info())
    metrics.on_steps([step_info(1)])
    metrics.close()
    assert steps(tmp_path / METRICS) == [1]


@pytest.mark.parametrize(
    ("text", "step", "left"),
    [
        ("", 5, ""),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', 2, '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 1}\n{"step": 2}\n', 7, '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 1}\n{"step": 2}\n', 0, ""),
        ('{"step": 1}\n{"step": 2, "lo', 2, '{"step": 1}\n'),  # killed in the middle of a line
        ('{"step": 1}\n{"step": 2}', 2, '{"step": 1}\n{"step": 2}\n'),  # killed before its end of line
        ('{"step": 1}\n{"step": 2}', 1, '{"step": 1}\n'),
        ('{"step": 1}\n\0\0\0\0', 3, '{"step": 1}\n'),  # what a power cut leaves
        ('{"step": 1', 3, ""),
        ('{"step": 1}\n2\n[]\n\n{"loss": 1}\n', 3, '{"step": 1}\n'),
        ('{"step": 4}\n{"step": 4}\n{"step": 5}\n', 4, '{"step": 4}\n{"step": 4}\n'),
    ],
)
def test_cut_back(tmp_path, text, step, left):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    cut_back(path, step)
    assert path.read_text() == left


def test_cut_back_without_a_file_makes_none(tmp_path):
    cut_back(tmp_path / "x.jsonl", 3)
    assert not (tmp_path / "x.jsonl").exists()


def test_read_passes_over_a_broken_last_line_only(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [record["step"] for record in read(path)] == [1, 2]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"x\.jsonl: line 2 is not a JSON object with a step; remove that line to go on"):
        list(read(path))


def test_a_killed_process_loses_no_lines_that_were_told(tmp_path):
    code = """
import sys, types
from pathlib import Path
from trainer.callbacks.metrics import Metrics
from trainer.state import StepInfo
metrics = Metrics(Path(sys.argv[1]))
metrics.on_start(types.SimpleNamespace(first_step=1))
metrics.on_steps([StepInfo(step, 1.0, *[0] * 8) for step in range(1, 6)])
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert steps(tmp_path / METRICS) == [1, 2, 3, 4, 5]


def test_a_full_disk_is_waited_for_then_an_error_and_no_line_is_half_written(tmp_path, run_info, step_info, monkeypatch, capsys):
    with small_disk(tmp_path, 2**16):
        metrics = Metrics(tmp_path)
        metrics.on_start(run_info())
        metrics.on_steps([step_info(1)])
        with (tmp_path / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        for step in range(2, 40):  # more than the rest of the file's page
            metrics.on_steps([step_info(step)])
        found = steps(tmp_path / METRICS)
        assert found == list(range(1, len(found) + 1))
        assert len(found) < 39
        again = f"run the same command with checkpoint.resume=auto run_dir={tmp_path}: it goes on from the newest whole checkpoint"
        told = f"{tmp_path / METRICS}: cannot be written (No space left on device); make room or make it writable, then {again}"
        with pytest.raises(RunError, match=re.escape(told)):
            metrics.on_checkpoint(39, tmp_path)
        (tmp_path / "filler").unlink()
        metrics.on_steps([step_info(40)])
        assert steps(tmp_path / METRICS) == list(range(1, 41))
        (tmp_path / "filler").write_bytes(b"x" * (os.statvfs(tmp_path).f_bavail * 4096))
        monkeypatch.setattr("trainer.callbacks.metrics.PATIENCE_SECONDS", 0)
        full = [step_info(step) for step in range(41, 80)]
        with pytest.raises(RunError, match="No space left"):
            metrics.on_steps(full)
        metrics.close()  # the error that ends the run is not replaced
        assert capsys.readouterr().err.startswith(f"warning: {told}")


def test_files_that_are_written_at_the_end_on_a_full_disk(tmp_path, run_info):
    with small_disk(tmp_path, 2**15):
        record = RunRecord(tmp_path)
        record.on_start(run_info())
        before = (tmp_path / RECORD).read_bytes()
        (tmp_path / "filler").write_bytes(b"x" * (os.statvfs(tmp_path).f_bavail * 4096))
        with pytest.raises(RunError, match=re.escape(f"{tmp_path / RECORD}: cannot be written (No space left on device); make room")):
            record.on_finish("finished", {})
        (tmp_path / METRICS).touch()
        with pytest.raises(RunError, match=r"report.html: cannot be written \(No space left on device\); make room"):
            Report(tmp_path).on_finish("finished", {})
        record.close()
        assert (tmp_path / RECORD).read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["filler", METRICS, RECORD]
