"""`explain=[...]`: on any number of ranks the same, of a compressed model as of another, told in lines, JSON and a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests import ranks
from tests.explain import small
from trainer import config as configs
from trainer.__main__ import train
from trainer.checkpoint.directory import list_whole
from trainer.cli import main
from trainer.explain import worker
from trainer.explain.integrated_gradients import IntegratedGradients
from trainer.explain.run import explanations
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load

IG = "explain=[integrated_gradients]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.run(tmp_path_factory.mktemp("explained"))


def rows(run_dir: Path, name: str = "integrated_gradients") -> list[dict]:
    return [json.loads(line) for line in (run_dir / "explain" / f"{name}.jsonl").read_text().splitlines()]


def test_what_decides_is_found_and_told(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert posttrain([str(trained), IG, "posttrain.explain_samples=12", "posttrain.evidence_samples=0"]) == 0
    found = explanations(trained)
    assert found["samples"] == 12
    assert found["decision"] == "log-odds of class 1 (low)"
    importance = {unit: figures["mean_abs"] for unit, figures in found["explainers"]["integrated_gradients"]["global"].items()}
    assert max(importance, key=importance.__getitem__) == "debt"
    assert list(importance) == ["debt", "student", "house"]  # columns, not the features that they became
    for row in rows(trained):
        assert row["base"] + sum(row["values"]) == pytest.approx(row["margin"], abs=1e-4)
    first = rows(trained)[0]
    assert found["shown"][str(first["sample"])]["values"]["student"] in ("yes", "no")
    page = (trained / "report.html").read_text()
    assert f"student = {found['shown'][str(first['sample'])]['values']['student']}" in page
    out = capsys.readouterr().out
    assert "explained  12 decisions: log-odds of class 1 (low)\n" in out


def on_rank(config: configs.Config) -> None:
    worker.explain_among(config, Path(config.checkpoint.resume), Path(str(config.run_dir)), torch.device("cpu"))


def test_any_number_of_ranks_tells_the_same(trained: Path, tmp_path: Path) -> None:
    texts = []
    for world in (1, 2, 4):
        run_dir = tmp_path / str(world)
        shutil.copytree(trained, run_dir)
        config = configs.load(run_dir / "config.yaml")
        config.run_dir, config.explain = str(run_dir), {"integrated_gradients": IntegratedGradients()}
        config.checkpoint.resume = str(list_whole(run_dir)[-1])
        config.posttrain.explain_samples, config.posttrain.evidence_samples = 10, 2
        ranks.run(world, on_rank, config, preload=["captum.attr"])
        texts.append((run_dir / "explain" / "integrated_gradients.jsonl").read_text())
        assert explanations(run_dir)["ranks"] == world
    assert texts[0].count("\n") == 10
    assert texts[0] == texts[1] == texts[2]


def test_a_compressed_model_is_explained_too(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    chain = ["compress=[prune]", "compress.prune.importance=magnitude", "compress.prune.sparsity=0.5", "posttrain.latency_pairs=0"]
    assert posttrain([str(run_dir), *chain, IG, "posttrain.explain_samples=4", "posttrain.evidence_samples=2"]) == 0
    (made,) = (path for path in (run_dir / "compressed").iterdir() if path.is_dir())
    assert not explanations(run_dir) or explanations(run_dir)["checkpoint"] != explanations(made)["checkpoint"]
    assert "Why it decides so" in (made / "report.html").read_text()
    before = explanations(made)
    assert posttrain([str(made), IG, "posttrain.explain_samples=6", "posttrain.evidence_samples=0"]) == 0  # a run like any other
    assert (before["samples"], explanations(made)["samples"]) == (4, 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["explain.integrated_gradients.steps=0"], "explain.integrated_gradients.steps=0: must be at least 1"),
        (["posttrain.explain_samples=0"], "posttrain.explain_samples=0: must be at least 1"),
        (["posttrain.evidence_samples=-1"], "posttrain.evidence_samples=-1: must be 0 (no evidence) or more"),
        (["posttrain.explain_output=7"], "posttrain.explain_output=7: the model has the outputs 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(trained: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    before = sorted(trained.rglob("*"))
    assert posttrain([str(trained), IG, *given]) == 2
    assert said in capsys.readouterr().err
    assert [path for path in sorted(trained.rglob("*")) if path not in before] == []


def test_data_of_another_kind_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def never(config: configs.Config) -> None:
        raise AssertionError(config)

    assert main(never, [f"run_dir={tmp_path / 'x'}", "explain=[nothing_such]"]) == 2
    assert "nothing_such" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_of_reduced_data_the_columns_are_explained(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    knobs = ["train.device=cpu", "log.progress=false", "train.max_steps=30", "optim.lr=0.02", "launcher.nproc_per_node=1"]
    reduced = ["data.reduce=pca", "data.components=3", f"run_dir={run_dir}", f"data.path={trained.parent / 'table.csv'}"]
    asked = ["explain=[integrated_gradients,permutation_importance]", "posttrain.explain_samples=5", "posttrain.evidence_samples=1"]
    assert main(train, [*reduced, *small.MODEL, *knobs, *asked]) == 0
    found = explanations(run_dir)["explainers"]
    assert list(found["integrated_gradients"]["global"]) == ["debt", "student", "house"]
    assert list(found["permutation_importance"]["importance"]["worse"]["loss"]) == ["debt", "student", "house"]
    for row in rows(run_dir):
        assert row["base"] + sum(row["values"]) == pytest.approx(row["margin"], abs=1e-4)
    loaded, samples = load(run_dir), configs.load(run_dir / "config.yaml").data.open("eval")
    first = rows(run_dir)[0]
    outputs = loaded.module(samples.batch([first["sample"]])["features"])[0]
    assert first["margin"] == pytest.approx((outputs[1] - outputs[0]).item(), abs=1e-5)  # what the model itself says of the components
