"""Timed commands and the marks that ranks leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import parse
from benchmarks.commands import run_quietly, run_timed, run_training
from benchmarks.work import environment

PYTHON = [sys.executable, "-c"]
TOY = """
import torch
from benchmarks import stamps
stamps.install()
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weight], lr=0.1)
for _ in range({steps}):
    weight.grad = torch.ones(2)
    optimizer.step()
"""


def test_a_command_is_timed_with_its_children(tmp_path: Path) -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    used = run_timed([*PYTHON, parent], dict(os.environ), tmp_path / "log.txt")
    assert used.status == 0
    assert used.cpu >= 0.3
    assert used.wall >= 0.3


def test_a_command_that_fails_is_an_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3:\nbecause of this$"):
        run_quietly([*PYTHON, "import sys; print('because of this'); sys.exit(3)"], dict(os.environ), tmp_path / "log.txt")


def test_marks_are_written_after_the_last_step(tmp_path: Path) -> None:
    env = environment(BENCHMARK_MARKS=str(tmp_path), BENCHMARK_STEPS="3", RANK="1")
    before = time.time()
    subprocess.run([*PYTHON, TOY.format(steps=3)], env=env, check=True)
    marks = json.loads((tmp_path / "rank-1.json").read_text(encoding="utf-8"))
    assert len(marks["times"]) == 3
    assert before < marks["times"][0] <= marks["times"][1] <= marks["times"][2] < time.time()
    assert marks["peak"] > 50 * 2**20  # PyTorch alone takes more


def test_ranks_that_did_not_take_all_steps_are_missed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="0 of 2 ranks told of their steps"):
        run_training([*PYTHON, TOY.format(steps=2)], 3, tmp_path / "log.txt", RANK="0")


def test_command_line_names_benchmarks_and_refuses_what_has_no_interval(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names, options, out = parse(["cli", "--quick", "--strategies", "ddp,zero1", "--out", str(tmp_path)])
    assert (names, options.pairs, options.strategies, out) == (["cli"], 6, ("ddp", "zero1"), tmp_path)
    for arguments, message in [
        (["sleep"], "unknown benchmark sleep"),
        (["--pairs", "5"], "takes at least 6"),
        (["--strategies", "dp"], "unknown strategy dp"),
        (["save", "--strategies", "single"], "save compares ddp, fsdp, zero1, zero3"),
    ]:
        with pytest.raises(SystemExit) as error:
            parse(arguments)
        assert error.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.large
def test_step_cli_and_save_print_their_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "step", "cli", "save", "--quick", "--strategies", "single,ddp", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "ddp, 10 ms" in done.stdout
    assert "--help, wall" in done.stdout
    tables = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tables"]
    assert [len(table["rows"]) for table in tables] == [2, 8, 1]


@pytest.mark.large
@pytest.mark.timeout(3600)  # 26 commands, each of which imports PyTorch
def test_shards_prints_what_a_rank_needs_for_each_chain(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "shards", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tables"]
    cases = [f"{chain}, 4 M parameters, 2 ranks" for chain in ("prune, int8", "low rank")]
    assert [row["case"] for row in table["rows"]] == cases
    for row in table["rows"]:
        assert row["case"] in done.stdout
        assert row["ratio"]["count"] == 6
        assert float(row["theirs"].removesuffix(" MB")) > 16  # the model's own values
