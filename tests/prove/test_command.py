"""python -m trainer.prove, as a person runs it."""

from __future__ import annotations

import json

import pytest

from tests.commands import TINY, run

SMALL = [*[item for item in TINY if "global_batch" not in item], "prove.steps=3", "prove.global_batch_size=4"]


def prove(*arguments: str, cwd, **extra: str):
    return run(*SMALL, *arguments, cwd=cwd, module="trainer.prove", timeout=280, **extra)


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
def test_every_installed_strategy_is_equal(tmp_path):
    done = prove("prove.ranks=[1,2]", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "prove.json").read_text())["rows"]
    assert {row["strategy"] for row in rows} >= {"single", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3", "ray", "accelerate"}
    assert {row["status"] for row in rows} <= {"equal", "not installed"}


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
