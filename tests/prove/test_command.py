"""python -m trainer.prove, as a person runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.commands import TINY, environment, run
from tests.launchers.running import descendants, left, wait_until

SMALL = [*[item for item in TINY if "global_batch" not in item], "prove.steps=3", "prove.global_batch_size=4"]


SEVERAL = ("ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3", "accelerate", "ray")
MATRIX = [("single", 1), *((strategy, ranks) for strategy in SEVERAL for ranks in (1, 2, 4))]


def prove(*arguments: str, cwd, timeout: float = 280, **extra: str):
    return run(*SMALL, *arguments, cwd=cwd, module="trainer.prove", timeout=timeout, **extra)


def test_single_ddp_and_fsdp_are_equal(tmp_path):
    done = prove("prove.strategies=[single,ddp,fsdp]", "prove.ranks=[1,2]", "model.dropout=0.1", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dropout: set to 0 (model.dropout=0.1)" in done.stdout
    assert "✓ equal: 3 strategies in 5 runs train like one process" in done.stdout
    document = json.loads((tmp_path / "out" / "prove.json").read_text())
    assert document["verdict"] == "equal"
    assert [(row["strategy"], row["ranks"], row["status"]) for row in document["rows"]] == [
        ("single", 1, "equal"),
        ("single", 2, "refused"),
        ("ddp", 1, "equal"),
        ("ddp", 2, "equal"),
        ("fsdp", 1, "equal"),
        ("fsdp", 2, "equal"),
    ]
    assert (tmp_path / "out" / "prove.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.large
@pytest.mark.timeout(3000)
def test_the_whole_matrix_of_saving_and_resuming(tmp_path):
    """Every strategy on 1, 2 and 4 ranks; saved after 3 of the 4 steps of an epoch; several micro-batches a step on any number of ranks."""
    awkward = ["model.layers=2", "model.tie_embeddings=true", "model.freeze=[layers.0.mlp.up_proj.weight]", "data.samples=32"]
    steps = ["prove.steps=6", "prove.global_batch_size=8"]
    done = prove("resume=true", *steps, *awkward, "run_dir=out", cwd=tmp_path, timeout=2900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"✓ equal: 9 strategies in {len(MATRIX)} runs train like one process, save what it saves, and go on from it" in done.stdout
    document = json.loads((tmp_path / "out" / "prove.json").read_text())
    assert (document["verdict"], document["resume_at"]) == ("equal", 3)
    assert sorted((row["strategy"], row["ranks"]) for row in document["rows"]) == sorted(MATRIX)
    for row in document["rows"]:
        assert (row["status"], row["reason"]) == ("equal", "")
        assert row["resumed"].keys() == {"sgd", "adamw"}
        for name, resumed in row["resumed"].items():
            assert resumed["own_bit_equal"]
            assert resumed["saved"] <= document["optimizers"][name]["parameter_band"]
            assert resumed["crossed"]["findings"] == []


def test_an_unstable_run_is_inconclusive(tmp_path):
    """At such a rate one process differs from itself."""
    done = prove("prove.strategies=[ddp]", "prove.ranks=[1]", "prove.sgd_lr=300", "prove.steps=20", "optim.weight_decay=0", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 1
    assert "verdict: inconclusive" in done.stderr
    assert "prove.sgd_lr=3e+01" in done.stderr
    assert json.loads((tmp_path / "out" / "prove.json").read_text())["verdict"] == "inconclusive"


def test_a_knob_of_one_strategy_is_that_strategys(tmp_path):
    done = prove("+strategy=fsdp", "strategy.no_sync=true", "prove.strategies=[ddp,fsdp]", "prove.ranks=[2]", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prove.strategies=[dpd]"], "prove.strategies: there is no strategy 'dpd'; did you mean 'ddp'?"),
        (["prove.ranks=[3]"], "prove.global_batch_size=4: cannot be divided over 3 processes"),
        (["prove.stepz=3"], "unknown key 'prove.stepz'; did you mean 'prove.steps'?"),
        (["-m"], "--multirun: the proof runs every strategy by itself"),
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
    ],
)
def test_wrong_commands(arguments, message, tmp_path):
    done = prove(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_starts_its_own_processes(tmp_path):
    done = prove(cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "run it without torchrun" in done.stderr


@pytest.mark.large
def test_no_rank_outlives_an_interrupt(tmp_path):
    """Also where SIGINT was ignored when it was started, as a script does with what it starts in the background."""
    command = [sys.executable, "-m", "trainer.prove", *SMALL, "prove.strategies=[ddp]", "prove.ranks=[2]", "prove.steps=5000", "run_dir=out"]
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: descendants(process.pid), process)
    ranks = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    wait_until(lambda: left(ranks) == [], seconds=30)


def test_a_loss_that_is_no_sum_is_refused(tmp_path):
    (tmp_path / "mean.py").write_text(
        "from dataclasses import dataclass\nfrom trainer.models.gpt import GPT\n\n"
        "@dataclass(kw_only=True)\nclass Mean(GPT):\n    def loss(self, module, batch):\n        return super().loss(module, batch) / self.count(batch)\n"
    )
    (tmp_path / "presets" / "model").mkdir(parents=True)
    (tmp_path / "presets" / "model" / "mean.yaml").write_text("_target_: mean.Mean\n")
    done = prove("model=mean", "prove.ranks=[1]", "--config-dir", "presets", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "it is a mean; return the sum" in done.stderr


def test_help(tmp_path):
    done = run("--help", cwd=tmp_path, module="trainer.prove")
    assert done.returncode == 0
    assert "usage: python -m trainer.prove" in done.stdout
    assert "prove.ranks=[1,2,4]" in done.stdout
