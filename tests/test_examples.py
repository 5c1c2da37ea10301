"""The examples run as their README says, from a copy outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("options", [pytest.param([], marks=pytest.mark.large), ["+strategy=fsdp", "launcher.nproc_per_node=2"]])
def test_a_model_of_one_s_own_package(options, tmp_path):
    shutil.copytree(ROOT / "examples" / "own_model", tmp_path / "own_model")
    settings = ["model=lstm", "model.dim=16", "data=synthetic", "train.max_steps=3", "train.global_batch_size=4", f"run_dir={tmp_path}/run"]
    paths = [str(tmp_path / "own_model"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--config-dir", str(tmp_path / "own_model" / "configs"), *settings, *options],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if "grad_norm" in step] == [1, 2, 3]
    assert "_target_: my_models.lstm.LSTM\n  dim: 16\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_package_that_is_not_there(tmp_path):
    config = ROOT / "examples" / "own_model" / "configs"
    command = [sys.executable, "-m", "trainer", "--config-dir", str(config), "model=lstm"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "_target_=my_models.lstm.LSTM: cannot be imported (No module named 'my_models')" in done.stderr
