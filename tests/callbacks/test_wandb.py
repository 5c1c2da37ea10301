import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launchers.running import run
from trainer.callbacks.wandb import RUN_ID, Wandb, has_key, run_id
from trainer.errors import ConfigError

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """An environment without a key, whatever this machine has."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_a_key_is_found_where_wandb_finds_it(no_key, monkeypatch, tmp_path):
    assert not has_key("https://api.wandb.ai")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    assert has_key("https://api.wandb.ai")
    assert has_key("https://api.forge.coreweave.com")  # the same server
    assert not has_key("https://wandb.example.org")
    (tmp_path / "netrc").write_text("machine\n")  # broken
    assert not has_key("https://api.wandb.ai")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key("https://wandb.example.org")


def test_the_id_stays_the_same(tmp_path):
    first = run_id(tmp_path)
    assert first == run_id(tmp_path) == (tmp_path / RUN_ID).read_text()
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path / "other") != first
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [RUN_ID]


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python marks a module that must not be found
    with pytest.raises(ConfigError, match=r"^wandb.enabled=true needs the package 'wandb', which is not installed.*\[wandb\]"):
        Wandb(tmp_path, "project")


def test_offline_one_run_across_a_restart(no_key, tmp_path, run_info, step_info):
    pytest.importorskip("wandb")
    run_dir = tmp_path / "run"
    for first in (1, 4):
        callback = Wandb(run_dir, "my-project")
        callback.on_start(run_info(run_dir=run_dir, first_step=first))
        for step in range(first, first + 3):
            callback.on_steps([step_info(step, grad_norm=math.nan)])
        callback.on_eval(first + 2, {"loss": 1.5})
        callback.on_finish("stopped" if first == 1 else "finished", {"sample": "text", "eval": {"loss": 1.5}})
        callback.close()
    recorded = recordings(run_dir)
    assert recorded
    assert {path.parent.name.split("-")[3] for path in recorded} == {run_id(run_dir)}  # "-1" follows where both began in one second
    assert all(path.parent.name.startswith("offline-run-") for path in recorded)
    content = b"".join(path.read_bytes() for path in recorded)
    for expected in (b"my-project", b"train/loss", b"train/tokens_per_second", b"eval/loss", b"max_steps", b"world_size"):
        assert expected in content


@pytest.mark.large
def test_a_run_that_is_killed_and_started_again_is_one_run(no_key, tmp_path):
    pytest.importorskip("wandb")
    trouble = ["model.how=kill", "model.on_rank=0", "model.at=3", f"model.once={tmp_path}/once", "run.max_restarts=1"]
    steps = ["+strategy=ddp", "launcher.nproc_per_node=2", "train.max_steps=4", "checkpoint.every=1"]
    status, _, err = run(*steps, *trouble, "run_dir=x", "wandb.enabled=true", cwd=tmp_path, WANDB_MODE="offline")
    assert (status, err.count("restart 1 of 1")) == (0, 1), err
    first, second = recordings(tmp_path / "x")  # rank 0, which writes them, was killed itself
    known = (tmp_path / "x" / RUN_ID).read_text()
    assert first.name == second.name == f"run-{known}.wandb"
    assert known.encode() in max(first, second).read_bytes()  # in that of the first only what Weights & Biases had written by then


def test_no_key_is_written_anywhere(no_key, tmp_path, monkeypatch, run_info, step_info):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")  # there is a key, but the network is not to be used
    callback = Wandb(tmp_path / "run", "my-project")
    callback.on_start(run_info())
    callback.on_steps([step_info(1)])
    callback.close()
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert recordings(tmp_path / "run")
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_server_that_is_not_there_is_said_in_words(no_key, tmp_path, run_info):
    pytest.importorskip("wandb")
    code = """
import sys, types
from pathlib import Path
from trainer.callbacks.wandb import Wandb
from trainer.errors import RunError
try:
    Wandb(Path(sys.argv[1]), "my-project").on_start(types.SimpleNamespace(config={}, strategy="ddp", world_size=1, device="cpu", parameters=1, data={}))
except RunError as error:
    print(error)
"""
    environment = {**os.environ, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith("wandb.enabled=true: Weights & Biases did not start: ")
    assert said.endswith("With WANDB_MODE=offline in the environment it needs no server\n")


def recordings(run_dir: Path) -> list[Path]:
    return [path for path in (run_dir / "wandb").glob("*/*.wandb") if not path.parent.is_symlink()]
