"""A run that is compressed: what its files say is what the model that they give back does."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.commands import run_without_torch
from tests.posttrain import small
from trainer.checkpoint.__main__ import main as checkpoint
from trainer.compress.prune import Importance, Prune
from trainer.compress.subject import Change, Subject
from trainer.errors import Stopped
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load
from trainer.posttrain.measure import batch_size
from trainer.posttrain.run import _tell
from trainer.posttrain.run import posttrain as run_chain


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps; its two compressions are in it."""
    path = small.run(tmp_path_factory.mktemp("runs") / "run")
    assert posttrain([str(path), "-m", "compress=[prune],[prune,quantize]", "posttrain.latency_pairs=2"]) == 0
    return path


def reports(run_dir: Path) -> dict[str, dict]:
    return {"-".join((found := json.loads(path.read_text()))["chain"]): found for path in run_dir.glob("compressed/*/compress.json")}


def test_the_model_that_is_loaded_computes_what_the_report_measured(trained):
    for found in reports(trained).values():
        for when, path in (("before", found["from"]), ("after", found["made"])):
            module, config = load(path)
            held_out = config.data.open("eval")
            loss = count = 0.0
            size = batch_size(config.eval.batch_size, len(held_out))  # in others, floats are rounded otherwise
            with torch.no_grad():
                for start in range(0, len(held_out), size):
                    batch = held_out.batch(range(start, min(start + size, len(held_out))))
                    loss += config.model.metrics(module, batch)["loss"].double().item()
                    count += config.model.count(batch)
            assert loss / count == pytest.approx(found[when]["metrics"]["loss"]["value"], rel=1e-9)


def test_a_language_model_has_its_perplexity_with_its_interval(trained):
    for found in reports(trained).values():
        for when in ("before", "after"):
            loss, perplexity = (found[when]["metrics"][name] for name in ("loss", "perplexity"))
            assert perplexity["value"] == pytest.approx(math.exp(loss["value"]), rel=1e-9)
            assert (perplexity["low"], perplexity["high"]) == pytest.approx((math.exp(loss["low"]), math.exp(loss["high"])), rel=1e-4)
        before, after = (found[when]["metrics"]["perplexity"]["value"] for when in ("before", "after"))
        assert found["difference"]["perplexity"]["value"] == pytest.approx(after - before)


def test_sizes_are_those_of_the_model_that_is_loaded(trained):
    for found in reports(trained).values():
        for when, path in (("before", found["from"]), ("after", found["made"])):
            parameters = list(load(path).module.parameters())
            assert found[when]["parameters"] == sum(value.numel() for value in parameters)
            assert found[when]["nonzero_parameters"] == sum(int((value != 0).sum()) for value in parameters)
            assert found[when]["memory_bytes"] == found[when]["disk_bytes"] == sum(value.numel() * value.element_size() for value in parameters)
    pruned, both = (reports(trained)[chain]["after"] for chain in ("prune", "prune-quantize"))
    assert pruned["nonzero_parameters"] < pruned["parameters"]
    assert both["disk_bytes"] < pruned["disk_bytes"]


def test_every_product_of_a_pass_is_counted(trained):
    """Of each of 8 tokens: the weights of all layers and of the output, and attention in full."""
    found = reports(trained)["prune-quantize"]
    module, config = load(found["from"])
    weights = sum(value.numel() for name, value in module.named_parameters() if value.ndim == 2 and "embed" not in name)
    attention = 2 * 8 * config.model.dim  # type: ignore[attr-defined]  # scores and their sum of values, of 8 keys
    for when in ("before", "after"):
        assert found[when]["macs"] == 8 * (weights + attention)
        assert found[when]["macs_leave_out"] == []


def test_pages_link_to_each_other(trained):
    names = sorted(path.parent.name for path in trained.glob("compressed/*/compress.json"))
    assert len(names) == 2
    index = (trained / "compressed" / "index.html").read_text()
    main_report = (trained / "report.html").read_text()
    for name in names:
        assert f'href="{name}/report.html"' in index
        assert f'href="compressed/{name}/report.html"' in main_report
        assert (trained / "compressed" / name / "report.html").is_file()
    assert 'href="compressed/index.html"' in main_report


def copy(run_dir: Path, to: Path) -> Path:
    """The run without what it was compressed to."""
    shutil.copytree(run_dir, to, ignore=shutil.ignore_patterns("compressed"))
    return to


def test_too_much_quality_lost_fails_the_run_and_keeps_what_it_made(trained, tmp_path, capsys):
    fell = reports(trained)["prune"]["difference"]["loss"]["value"] < 0  # a model of two steps may well get better
    path = copy(trained, tmp_path / "run")
    limit = ["posttrain.max_quality_loss=0", f"posttrain.higher_is_better={str(fell).lower()}"]
    assert posttrain([str(path), "compress=[prune]", *limit, "posttrain.latency_pairs=0"]) == 1
    error = capsys.readouterr().err
    assert "run failed: loss went from" in error
    assert "posttrain.max_quality_loss=0.0 allows 0.00%" in error
    (out,) = [each for each in path.glob("compressed/*") if each.is_dir()]
    assert (out / "report.html").is_file()
    assert load(out).config.run_dir == str(out)
    assert json.loads((out / "compress.json").read_text())["quality_loss"] > 0


def test_a_run_that_was_moved_is_compressed_where_it_is(trained, tmp_path, monkeypatch):
    copy(trained, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert posttrain(["moved", "compress=[quantize]", "posttrain.latency_pairs=0", "posttrain.evaluation_samples=10"]) == 0
    (found,) = reports(tmp_path / "moved").values()
    assert found["from"] == "moved/checkpoints/step-00000002"
    assert found["samples"] == 10


def test_a_method_may_come_twice_under_another_name(trained, tmp_path):
    path = copy(trained, tmp_path / "run")
    magnitude = ["compress.prune.importance=magnitude", "compress.again.importance=magnitude", "posttrain.latency_pairs=0"]
    chain = ["compress=[prune]", "+compress@compress.again=prune", "compress.prune.exclude=['*o_proj']", "compress.again.sparsity=0.75"]
    assert posttrain([str(path), *chain, *magnitude]) == 0
    found = reports(path)["prune-again"]
    others = 2 * 32 * 16 + 3 * 16  # embedding, output and norms
    before, after = (found[when]["nonzero_parameters"] - others for when in ("before", "after"))
    assert after == before / 4


def test_what_follows_a_new_form_chooses_among_its_layers(trained, tmp_path):
    path = copy(trained, tmp_path / "run")
    assert posttrain([str(path), "compress=[low_rank,quantize]", "compress.quantize.layers=['*.down']", "posttrain.latency_pairs=0"]) == 0
    layers = reports(path)["low_rank-quantize"]["layers"]["quantize"]
    assert layers
    assert all(name.endswith(".down") for name in layers)


@pytest.mark.large  # for the import of transformers
def test_a_hugging_face_directory_takes_the_place_of_a_run(trained, tmp_path):
    pytest.importorskip("transformers")
    assert checkpoint(["export", str(trained), str(tmp_path / "hf")]) == 0
    given = [str(tmp_path / "hf"), "compress=[quantize]", f"run_dir={tmp_path / 'run'}", *small.DATA, "posttrain.latency_pairs=2", "train.device=cpu"]
    assert posttrain(given) == 0
    (found,) = reports(tmp_path / "run").values()
    assert found["before"]["metrics"]["loss"]["value"] == pytest.approx(reports(trained)["prune"]["before"]["metrics"]["loss"]["value"], rel=1e-6)
    assert found["before"]["macs"] == reports(trained)["prune"]["before"]["macs"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["compress=[]"], "compress: is empty"),
        (["compress=[quantize,prune]"], "compress=[quantize,prune]: nothing can follow quantize"),
        (["compress=[distill,prune]"], "compress=[distill,prune]: distill wins back what was lost before it, and stands first"),
        (["compress=[winograd,prune]"], "compress=[winograd,prune]: nothing can follow winograd, which leaves a form that another would take the place of"),
        (
            ["compress=[low_rank,prune_structured]"],
            "compress=[low_rank,prune_structured]: prune_structured needs layers in their plain form, and low_rank leaves them in another; put",
        ),
        (["compress=[pruen]"], "compress=pruen: there is no such compress; did you mean 'prune'?"),
        (["compress=[prune]", "compress.prune.sparsity=1"], "compress.prune.sparsity=1.0: must be between 0 and 1"),
        (["compress=[low_rank]", "compress.low_rank.ratio=-0.1"], "compress.low_rank.ratio=-0.1: must be between 0 and 1"),
        (["compress=[prune]", "data.kind=images", "data.vocab_size=256", "data.seq_len=128"], "model=gpt needs text (token ids), but the data has"),
        (["compress=[prune]", "posttrain.max_quality_loss=-1"], "posttrain.max_quality_loss=-1.0: must be at least 0"),
        (["compress=[prune]", "posttrain.latency_pairs=1"], "posttrain.latency_pairs=1: has no 90th percentile"),
        (["compress=[prune]", "run_dir=other"], "run_dir=other: the run is RUN, which comes first"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_starts(trained, capsys, given, said):
    before = sorted((trained / "compressed").iterdir())
    assert posttrain([str(trained), *given]) == 2
    assert f"error: {said.replace('RUN', str(trained))}" in capsys.readouterr().err
    assert sorted((trained / "compressed").iterdir()) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["compress=[quantize,prune]"], "nothing can follow quantize"),
        (["compress=[prune]", "data.kind=images", "data.vocab_size=256", "data.seq_len=128"], "model=gpt needs text (token ids)"),
    ],
)
def test_it_is_said_before_torch_is_imported(trained, tmp_path, given, said):
    done = run_without_torch(str(trained), *given, cwd=tmp_path, module="trainer.posttrain")
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.vocab_size=33"], "data: makes embed_tokens.weight of the model (33, 16), which is (32, 16) in"),
        (["posttrain.quality=accuracy"], "posttrain.quality=accuracy: is not one of the model's metrics: loss"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_it_is_compressed(trained, capsys, given, said):
    before = sorted((trained / "compressed").iterdir())
    assert posttrain([str(trained), "compress=[low_rank]", *given]) == 2
    assert said in capsys.readouterr().err
    assert sorted((trained / "compressed").iterdir()) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["compress=[prune,distill,winograd]"],
            "compress.winograd: none of the 7 chosen layers of the model (of 7) is a 3x3 convolution",
        ),
        (
            ["+compress@compress.slimmer=prune_structured", "compress.slimmer.macs=0.01", "compress.slimmer.calibration_samples=2"],
            "compress.slimmer.macs=0.01: 0.",
        ),
    ],
)
def test_what_only_the_model_can_tell_is_said_before_it_is_trained_or_changed(trained, capsys, given, said):
    before = sorted((trained / "compressed").iterdir())
    assert posttrain([str(trained), *given]) == 2
    assert f"error: {said}" in capsys.readouterr().err
    assert sorted((trained / "compressed").iterdir()) == before


@dataclass(kw_only=True)
class Asked(Prune):
    """Is asked to stop while it is at work."""

    def run(self, subject: Subject) -> Change:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().run(subject)


def test_a_request_to_stop_ends_the_chain_with_the_method_at_work(trained, tmp_path):
    path = copy(trained, tmp_path / "run")
    config = load(path).config
    config.run_dir, config.compress = str(path), {"asked": Asked(importance=Importance.magnitude), "prune": Prune(importance=Importance.magnitude)}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Stopped, match=r"^before the chain was done; run the same command to do it anew$"):
            run_chain(config)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(path.glob("compressed/asked-*/checkpoints/*"))


def test_what_a_method_tells_before_and_after_its_training_is_put_together(tmp_path):
    told = {}
    for number, layers in enumerate([{"prune": {"a": {"loss at 0.5": 0.1}}}, {"prune": {"a": {"zeros": 0.5}, "b": {"zeros": 0.0}}, "distill": {}}]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "layers.json").write_text(json.dumps(layers))
        _tell(told, tmp_path / str(number))
    assert told == {"prune": {"a": {"loss at 0.5": 0.1, "zeros": 0.5}, "b": {"zeros": 0.0}}, "distill": {}}


def test_what_is_no_run_is_said(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    for given, said in [
        ([], "RUN_DIR: give the directory of a run first"),
        ([str(tmp_path / "none"), "compress=[prune]"], "is neither the directory of a run (it has no config.yaml) nor a Hugging Face directory"),
    ]:
        assert posttrain(given) == 2
        assert said in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_said(trained, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert posttrain([str(tmp_path), "compress=[prune]"]) == 2
    assert f"{tmp_path}: has no whole checkpoint to compress; train first" in capsys.readouterr().err
    assert not (tmp_path / "compressed").exists()


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        (["config.json"], ["data=synthetic"], "has no weights (model.safetensors, or its parts and their index)"),
        (["config.json", "model.safetensors"], [], "data: is needed for"),
        (["config.json", "model.safetensors"], ["data=synthetic", "model=gpt"], "model=gpt: the model is that of"),
    ],
)
def test_a_hugging_face_directory_that_lacks_something_is_said(tmp_path, capsys, files, given, said):
    for file in files:
        (tmp_path / file).write_text("{}")
    assert posttrain([str(tmp_path), "compress=[prune]", *given]) == 2
    assert said in capsys.readouterr().err
