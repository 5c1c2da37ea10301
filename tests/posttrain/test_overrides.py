"""What arguments make of the config that a finished run has kept, and of a chain that has one method twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run
from tests.posttrain import small
from trainer import config as configs
from trainer.cli import main
from trainer.compress.prune import Importance, Prune
from trainer.compress.quantize import Kind, Quantize
from trainer.config import Config
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.deepspeed import ZeRO3
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single

TWICE = ["compress=[prune]", "+compress@compress.again=prune"]


def composed(*arguments: str, base: Path | None = None) -> Config:
    found: list[Config] = []
    assert main(found.append, ["run_dir=x", *arguments], base=base) == 0
    (config,) = found
    return config


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yaml of a run that has knobs which are not as by default."""
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    given = ["strategy=fsdp", "strategy.reshard_after_forward=false", "compress=[prune]", "compress.prune.sparsity=0.25", "optim.lr=0.5", *small.MODEL]
    configs.save(composed(*given, *small.DATA), path)
    return path


@pytest.mark.parametrize(("name", "strategy"), [("single", Single()), ("fsdp", FSDP()), ("zero3", ZeRO3())])
def test_a_strategy_takes_the_place_of_another_with_all_its_knobs(kept: Path, name: str, strategy: Strategy) -> None:
    ranks = 1 if name == "single" else 2
    found = composed(f"strategy={name}", f"launcher.nproc_per_node={ranks}", base=kept)
    assert found.strategy == strategy
    assert found.launcher.nproc_per_node == ranks
    before = configs.load(kept)
    assert (found.model, found.data, found.optim, found.compress) == (before.model, before.data, before.optim, before.compress)


def test_what_is_not_chosen_anew_is_kept(kept: Path) -> None:
    found = composed("strategy.no_sync=true", "data=stdlib", base=kept)
    assert found.strategy == FSDP(reshard_after_forward=False, no_sync=True)
    assert configs.to_plain(found.data) == configs.to_plain(composed().data)


def test_a_chain_takes_the_place_of_another(kept: Path) -> None:
    assert composed("compress=[quantize]", "compress.quantize.kind=int8_dynamic", base=kept).compress == {"quantize": Quantize(kind=Kind.int8_dynamic)}
    assert composed("compress=[prune]", base=kept).compress == {"prune": Prune()}
    assert composed("compress@compress.again=prune", base=kept).compress == {"prune": Prune(sparsity=0.25), "again": Prune()}


@pytest.mark.parametrize("on_a_run", [False, True])
def test_the_same_method_twice_has_knobs_for_each(kept: Path, on_a_run: bool) -> None:
    given = [*TWICE, "compress.again.sparsity=0.75", "compress.prune.scope=layer", "compress.prune.importance=magnitude"]
    chain = composed(*given, base=kept if on_a_run else None).compress
    assert list(chain) == ["prune", "again"]
    assert chain["again"] == Prune(sparsity=0.75)
    assert chain["prune"].sparsity == Prune().sparsity  # type: ignore[attr-defined]
    assert chain["prune"].importance is Importance.magnitude  # type: ignore[attr-defined]


def test_what_is_wrong_is_said_of_the_one_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(lambda config: None, [*TWICE, "compress.again.sparsity=2"]) == 2
    assert "error: compress.again.sparsity=2.0: must be between 0 and 1" in capsys.readouterr().err


@pytest.mark.large
def test_a_run_of_one_process_is_compressed_by_two_under_another_strategy(tmp_path: Path) -> None:
    small.run(tmp_path / "run")
    chain = ["compress=[prune]", "compress.prune.importance=magnitude", "compress.prune.finetune.steps=3", "posttrain.latency_pairs=0"]
    done = run("run", "strategy=ddp", "launcher.nproc_per_node=2", *chain, cwd=tmp_path, module="trainer.posttrain")
    assert done.returncode == 0, done.stderr
    (trained,) = (tmp_path / "run").glob("compressed/*/stages/*-trained")
    assert configs.load(trained / "config.yaml").strategy == DDP()
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 3
