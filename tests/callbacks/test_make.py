import subprocess
import sys
from types import SimpleNamespace

import pytest

from trainer.callbacks import make


def config(progress=True, wandb=False):
    return SimpleNamespace(log=SimpleNamespace(progress=progress, every=10), wandb=SimpleNamespace(enabled=wandb, project="p", name=None))


def names(callbacks):
    return [type(callback).__name__ for callback in callbacks]


def test_what_is_written_comes_before_what_is_shown(tmp_path):
    assert names(make(config(), tmp_path)) == ["Metrics", "Ledger", "RunRecord", "Report", "Progress"]
    assert names(make(config(progress=False), tmp_path)) == ["Metrics", "Ledger", "RunRecord", "Report"]


def test_wandb_on_request(tmp_path):
    pytest.importorskip("wandb")
    assert names(make(config(wandb=True), tmp_path)) == ["Metrics", "Ledger", "RunRecord", "Report", "Wandb", "Progress"]


def test_a_run_from_start_to_report(tmp_path, run_info, step_info, capsys):
    callbacks = make(config(), tmp_path)
    for callback in callbacks:
        callback.on_start(run_info(last_step=2, max_steps=2))
    for step in (1, 2):
        for callback in callbacks:
            callback.on_steps([step_info(step)])
    for callback in callbacks:
        callback.on_finish("finished", {"sample": "the sample"})
    for callback in callbacks:
        callback.close()
    assert "the sample" in (tmp_path / "report.html").read_text()
    assert f"report    {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_nothing_heavy_is_imported():
    code = (
        "import sys, trainer.callbacks.metrics, trainer.callbacks.progress, trainer.callbacks.record, trainer.callbacks.profile, "
        "trainer.callbacks.wandb, trainer.callbacks.report, trainer.report.page, trainer.flops, trainer.memory\n"
        "print([name for name in ('torch', 'wandb', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
