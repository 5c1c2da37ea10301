"""What is exported computes what PyTorch does, or is not there."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.commands import run_without_torch
from tests.posttrain import small
from trainer.errors import ConfigError, RunError
from trainer.export import run as exporting
from trainer.export.base import Exporter, Run
from trainer.export.executorch import ExecuTorch
from trainer.export.onnx import Onnx
from trainer.export.told import exports
from trainer.export.traced import Traced
from trainer.posttrain.__main__ import main as posttrain
from trainer.posttrain.load import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.run(tmp_path_factory.mktemp("runs") / "run")


@dataclass(kw_only=True)
class Weight(Exporter):
    """A runtime that knows one kind of model: the rows of an embedding, `factor` times as large."""

    name: ClassVar[str] = "weight"
    package: ClassVar[str] = "torch"
    runtime: ClassVar[str] = "torch"
    file: ClassVar[str] = "weight.pt"
    factor: float = 1.0

    def write(self, traced: Traced, path: Path) -> None:
        traced.module.forward = lambda ids: traced.module.module.embed_tokens(ids)  # type: ignore[method-assign, union-attr, operator]
        torch.save(traced.module.module.embed_tokens.weight.detach() * self.factor, path)  # type: ignore[union-attr, operator]

    def write_int8(self, traced: Traced, written: Path, path: Path) -> None:
        weight = torch.load(written)
        scale = weight.abs().max() / 127
        torch.save((weight / scale).round() * scale, path)

    @staticmethod
    def opened(path: Path, threads: int) -> Run:
        weight = torch.load(path)
        return lambda inputs: weight[inputs[0]]


def export(run_dir: Path, part: Exporter) -> dict[str, Any]:
    config = load(run_dir).config
    config.export, config.posttrain.latency_pairs = {part.name: part}, 2
    return exporting.export(config, run_dir)


def exported(trained: Path, chain: str, *given: str) -> Path:
    """The directory of what `chain` makes of the model, or of the model itself, with what is `given` exported."""
    compress = [f"compress=[{chain}]"] if chain else []
    assert posttrain([str(trained), *compress, "posttrain.latency_pairs=2", *given]) == 0
    (out,) = trained.glob(f"compressed/{chain}-*") if chain else [trained]
    return out


def test_a_file_is_kept_with_its_figures_and_one_whose_outputs_are_others_is_not(trained):
    found = export(trained, Weight())
    assert found == exports(trained)
    figures = found["weight/weight.pt"]
    path = trained / "export" / "weight" / "weight.pt"
    assert figures["bytes"] == path.stat().st_size
    assert figures["error"] == 0.0
    assert figures["peak_memory_bytes"] >= 0
    assert figures["latency"].keys() == {"1", "32"}
    assert figures["latency"]["1"].keys() == {"pytorch", "exported"}
    for factor, said in [(1.001, "0.001"), (float("nan"), "nan")]:
        with pytest.raises(RunError, match=rf"export=weight: the outputs of weight.pt are {said} from PyTorch's .* its tolerance is 0.0001"):
            export(trained, Weight(factor=factor))
        assert not list((trained / "export").glob("*weight*"))  # nor the one before
        assert exports(trained) == {}


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_the_worst_batch_counts(trained, wrong):
    traced = Traced(load(trained))
    batches = [[value] for value in traced.inputs(3)[0].split(1)]

    def run(inputs):
        return traced.expected(inputs) * (float("nan") if torch.equal(inputs[0], batches[wrong][0]) else 1.0)

    assert exporting._error(traced, run, [batches[i] for i in range(3) if i != wrong]) == 0.0
    assert math.isnan(exporting._error(traced, run, batches))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Onnx(tolerance=0), "export.onnx.tolerance=0: must be above 0"),
        (Onnx(int8_tolerance=float("inf")), "export.onnx.int8_tolerance=inf: must be above 0"),
        (Onnx(calibration_samples=0), "export.onnx.calibration_samples=0: must be at least 1"),
        (ExecuTorch(check_samples=0), "export.executorch.check_samples=0: must be at least 1"),
        (ExecuTorch(batch_size=0), "export.executorch.batch_size=0: must be at least 1"),
    ],
)
def test_knobs_that_cannot_work_are_refused(part, said, monkeypatch):
    monkeypatch.setattr("trainer.export.base.find_spec", lambda _: True)
    with pytest.raises(ConfigError) as raised:
        part.validate()
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("part", [Onnx(), ExecuTorch()])
def test_a_missing_package_is_said(part, monkeypatch):
    monkeypatch.setattr("trainer.export.base.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"export={part.name} needs the package '{part.package}'.*\[edge\]"):
        part.validate()


def test_a_wrong_export_is_said_before_torch_is_imported(trained, tmp_path):
    done = run_without_torch(str(trained), "export=[onyx]", cwd=tmp_path, module="trainer.posttrain")
    assert done.returncode == 2
    assert "error: export=onyx: there is no such export; did you mean 'onnx'?" in done.stderr


def test_a_file_with_int8_is_held_to_a_tolerance_of_its_own(trained):
    found = export(trained, Weight(int8=True))
    assert found["weight/weight.pt"]["error"] == 0
    assert found["weight/weight-int8.pt"]["tolerance"] == 0.1
    assert 1e-4 < found["weight/weight-int8.pt"]["error"] < 0.1
    with pytest.raises(RunError, match=r"the outputs of weight-int8.pt are .* and its tolerance is 1e-06"):
        export(trained, Weight(int8=True, int8_tolerance=1e-6))
    assert not exports(trained)


@pytest.mark.large
@pytest.mark.parametrize("chain", ["", "low_rank", "quantize"])
def test_onnx_files_take_any_batch_and_length(trained, chain):
    pytest.importorskip("onnxruntime")
    out = exported(trained, chain, "export=[onnx]", "export.onnx.int8=true")
    found = exports(out)
    assert found["onnx/model.onnx"]["error"] < 1e-5
    assert 1e-5 < found["onnx/model-int8.onnx"]["error"] < 0.1
    traced = Traced(load(out))
    run = Onnx.opened(out / "export" / "onnx" / "model.onnx", 1)
    for count, length in [(1, 8), (7, 3), (48, 8)]:
        inputs = [value[:, :length] for value in traced.inputs(count)]
        torch.testing.assert_close(run(inputs), traced.expected(inputs), rtol=1e-4, atol=1e-5)
    assert "onnx/model-int8.onnx" in (out / "report.html").read_text()
    text = (out / "export" / "onnx" / "model.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in text


@pytest.mark.large
def test_integer_weights_stay_integers_in_onnx(trained):
    onnx = pytest.importorskip("onnx")
    out = exported(trained, "quantize", "export=[onnx]")
    model = onnx.load(out / "export" / "onnx" / "model.onnx")
    weights = json.loads((out / "layers.json").read_text())["quantize"]
    integers = [item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8]
    assert len(integers) == len(weights)


@pytest.mark.large
@pytest.mark.timeout(900)  # its compiler takes minutes where the machine is busy
@pytest.mark.parametrize("chain", ["", "low_rank", "quantize"])
def test_executorch_programs_compute_what_pytorch_does(trained, chain):
    pytest.importorskip("executorch")
    int8 = chain != "quantize"  # which leaves nothing to be quantized
    out = exported(trained, chain, "export=[executorch]", "export.executorch.batch_size=2", f"export.executorch.int8={int8}")
    assert exports(out)["executorch/model.pte"]["error"] < 1e-5
    if int8:
        assert 1e-5 < exports(out)["executorch/model-int8.pte"]["error"] < 0.1
        assert exports(out)["executorch/model-int8.pte"]["bytes"] < exports(out)["executorch/model.pte"]["bytes"]
    assert exports(out)["executorch/model.pte"]["latency"].keys() == {"2"}
    traced = Traced(load(out))
    run = ExecuTorch.opened(out / "export" / "executorch" / "model.pte", 1)
    torch.testing.assert_close(run(traced.inputs(2)), traced.expected(traced.inputs(2)), rtol=1e-4, atol=1e-5)
