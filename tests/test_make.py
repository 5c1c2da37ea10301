"""The commands of the Makefile, from a fresh clone, as a person on a new machine runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import ROOT


@pytest.mark.large
def test_make_train_from_nothing(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "ARGS")}
    done = subprocess.run(
        ["make", "train"], cwd=clone, env={**environment, "TRAINER_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    said = re.search(r"train +loss ([\d.]+) nats .*unigram entropy of the data ([\d.]+) nats", done.stdout)
    assert said, done.stdout
    assert float(said[1]) < 0.75 * float(said[2])
    assert re.search(r"^sample +\S", done.stdout, re.MULTILINE)
    (run_dir,) = (clone / "runs").iterdir()
    assert (run_dir / "report.html").is_file()
    assert str(run_dir.relative_to(clone) / "report.html") in done.stdout
    assert json.loads((run_dir / "run.json").read_text())["run"]["world_size"] == 2


def test_the_pins_satisfy_the_package():
    pins = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for group in (project["dependencies"], *project["optional-dependencies"].values()) for text in group]
    wanted = [requirement for requirement in wanted if requirement.name != project["name"]]
    assert len(wanted) > 20
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    assert pins["torch"].startswith("2.13.")
    assert "+" not in pins["torch"]  # a local version would shut out CUDA builds


def test_ruff_is_content():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.large
def test_pyright_is_content():
    done = subprocess.run([sys.executable, "-m", "pyright", "--pythonpath", sys.executable], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
