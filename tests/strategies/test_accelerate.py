"""`strategy=accelerate` does what one process does, and refuses what Accelerate would not do as asked."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ranks, tiny
from tests.tiny import Tiny
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.sections import Device, OptimizerName, Precision
from trainer.strategies.accelerate import Accelerate, from_environment
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.single import Single

pytestmark = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="the extra `accelerate` is not installed")

SGD = {"name": OptimizerName.sgd, "weight_decay": 0.0, "lr": 0.3}
CASES: dict[str, tuple[Tiny, dict[str, Any], dict[str, Any]]] = {
    "sgd": (Tiny(), SGD, {}),
    "adamw": (Tiny(), {}, {}),
    "whole-share": (Tiny(), SGD, {"micro_batch_size": None}),
    "no-clip": (Tiny(), {**SGD, "max_norm": 0.0}, {}),
    "tied": (Tiny(tied="root"), SGD, {}),
    "frozen": (Tiny(freeze="blocks.0"), {}, {}),
    "never-used": (Tiny(use={"extra": "never"}), {}, {}),
}


def case(strategy: Strategy, name: str) -> Config:
    model, optim, train = CASES[name]
    return tiny.config(strategy, model=model, optim=optim, **train)


def train_all(configs: dict[str, Config]) -> dict[str, tiny.Trained]:
    return {name: tiny.train(config) for name, config in configs.items()}


@functools.cache
def trained(strategy: str, world_size: int) -> list[dict[str, tiny.Trained]]:
    part: Strategy = {"single": Single(), "accelerate": Accelerate()}[strategy]
    return ranks.run(world_size, train_all, {name: case(part, name) for name in CASES}, timeout=120)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_process(world_size: int, name: str) -> None:
    expected = trained("single", 1)[0][name]
    for of_rank in trained("accelerate", world_size):
        tiny.assert_equal(of_rank[name], expected)


def without_launcher(config: Config) -> tuple[tiny.Trained, str]:
    import os

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    engine = tiny.make_engine(config)
    return tiny.train(config, engine=engine), type(engine.model).__name__


def test_one_process_without_a_launcher_is_not_wrapped() -> None:
    [(result, model)] = ranks.run(1, without_launcher, case(Accelerate(), "sgd"))
    assert model == "Net"
    tiny.assert_equal(result, trained("single", 1)[0]["sgd"])


def calls(config: Config) -> dict[str, Any]:
    """What the engine is made of, and how often gradients are exchanged in a step of several micro-batches."""
    engine: Any = tiny.make_engine(config)
    loader = tiny.loader(config, 1, 5)
    counts = []
    for item in loader:
        with tiny.Exchanges() as exchanges:
            engine.forward_backward(item.batches, config.model.loss, torch.tensor(1.0), lambda loss: None)
        engine.optimizer.zero_grad()
        counts.append(exchanges.names)
    loader.close()
    return {
        "kind": engine.accelerator.distributed_type.value,
        "processes": engine.accelerator.num_processes,
        "model": type(engine.model).__name__,
        "optimizer": type(engine.optimizer).__name__,
        "prepared": getattr(engine.model, "_is_accelerate_prepared", False),
        "counts": counts[3:],  # in its third step DDP settles the order of its buckets
    }


def test_accelerate_prepares_and_exchanges_once_a_step() -> None:
    for found in ranks.run(2, calls, case(Accelerate(), "sgd")):
        assert found["kind"] == "MULTI_CPU"
        assert found["processes"] == 2
        assert found["model"] == "DistributedDataParallel"
        assert found["optimizer"] == "AcceleratedOptimizer"
        assert found["prepared"]
        assert found["counts"] == [["allreduce_"]] * 2  # one bucket, in the last of four micro-batches


def bf16(strategy: Strategy) -> Config:
    return tiny.config(strategy, precision=Precision.bf16)


def test_bf16_is_what_ddp_does() -> None:
    expected = ranks.run(2, tiny.train, bf16(DDP()))[0]
    found = ranks.run(2, tiny.train, bf16(Accelerate()))[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)


def test_a_parameter_unused_later_is_as_under_ddp() -> None:
    model = Tiny(use={"extra": "until:7"})
    expected = ranks.run(2, tiny.train, tiny.config(DDP(), model=model))[0]
    found = ranks.run(2, tiny.train, tiny.config(Accelerate(), model=model))[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)


# -- what is refused ------------------------------------------------------------------------------


def refused(text: str, tmp_path: Path, *, world_size: int = 2, **train: Any) -> str:
    path = tmp_path / "accelerate.yaml"
    path.write_text(text)
    strategy = Accelerate(config_file=str(path))
    with pytest.raises(ConfigError) as caught:
        strategy.check(tiny.config(strategy, **train), world_size)
    return str(caught.value).replace(f"strategy.config_file={path}: ", "")


def test_what_accelerate_config_writes_is_taken(tmp_path: Path) -> None:
    """The file that `accelerate config default` and its questions write for CPU processes."""
    path = tmp_path / "default.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndebug: false\ndistributed_type: MULTI_CPU\ndowncast_bf16: 'no'\nenable_cpu_affinity: false\n"
        "machine_rank: 0\nmain_training_function: main\nmixed_precision: 'no'\nnum_machines: 1\nnum_processes: 2\nrdzv_backend: static\n"
        "same_network: true\ntpu_env: []\ntpu_use_cluster: false\ntpu_use_sudo: false\nuse_cpu: true\n"
    )
    strategy = Accelerate(config_file=str(path))
    strategy.check(tiny.config(strategy, device=Device.cpu), 2)
    assert len(ranks.run(2, tiny.train, tiny.config(strategy))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "distributed_type: FSDP\nmixed_precision: bf16\nfsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: false, fsdp_offload_params: true}",
            "distributed_type: FSDP is not done through Accelerate here; "
            "use strategy=fsdp strategy.reshard_after_forward=false strategy.cpu_offload=true train.precision=bf16",
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3, offload_optimizer_device: cpu, gradient_clipping: 0.5}",
            "distributed_type: DEEPSPEED is not done through Accelerate here; use strategy=zero3 strategy.cpu_offload=true optim.max_norm=0.5",
        ),
        ("distributed_type: MEGATRON_LM", "distributed_type: MEGATRON_LM is not supported; use NO, MULTI_CPU or MULTI_GPU"),
        ("distributed_type: 'NO'", "distributed_type: NO is for 1 process, and there are 2; use MULTI_CPU or MULTI_GPU"),
        (
            "distributed_type: MULTI_CPU\nnum_processes: 4",
            "num_processes: 4, and there are 2; set launcher.nproc_per_node (times launcher.nnodes), or change the file",
        ),
        ("distributed_type: MULTI_CPU\nmixed_precision: bf16", "mixed_precision: bf16 contradicts train.precision=fp32; set train.precision=bf16"),
        ("distributed_type: MULTI_CPU\nmixed_precision: fp16", "mixed_precision: fp16 contradicts train.precision=fp32; use no or bf16"),
        (
            "distributed_type: MULTI_CPU\ndynamo_config: {dynamo_backend: INDUCTOR}",
            "dynamo_config: {'dynamo_backend': 'INDUCTOR'} is not supported by strategy=accelerate; compile with train.compile=true",
        ),
        ("distributed_type: MULTI_CPU\nfp8_config: {backend: TE}", "fp8_config: {'backend': 'TE'} is not supported by strategy=accelerate; leave it out"),
        (
            "distributed_type: MULTI_CPU\ngradient_accumulation_steps: 4",
            "gradient_accumulation_steps: 4 is not supported by strategy=accelerate; train.micro_batch_size gives accumulation",
        ),
        ("distributed_type: MULTI_CPU\nnum_proceses: 2", "num_proceses: 2 is not supported by strategy=accelerate; leave it out"),
        ("num_processes: 2", "has no distributed_type; give a file that `accelerate config` wrote"),
        ("- 1", "has no distributed_type; give a file that `accelerate config` wrote"),
    ],
)
def test_refused_with_what_would_be_right(text: str, message: str, tmp_path: Path) -> None:
    assert refused(text, tmp_path) == message


def test_a_file_for_another_device_is_refused(tmp_path: Path) -> None:
    assert "distributed_type: MULTI_GPU, and the run is on the CPU; use MULTI_CPU" in refused("distributed_type: MULTI_GPU", tmp_path, device=Device.cpu)
    assert refused("distributed_type: MULTI_CPU", tmp_path, device=Device.cuda) == "distributed_type: MULTI_CPU, and the run is on CUDA; set train.device=cpu"
    assert refused("distributed_type: MULTI_GPU\nuse_cpu: true", tmp_path, device=Device.cuda) == "use_cpu: true, and the run is on CUDA; set train.device=cpu"


def test_gpus_asked_for_and_none_found_is_an_error_not_a_fall_back(tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    with pytest.raises(ranks.RankFailed, match="ConfigError: strategy=accelerate: distributed_type: MULTI_GPU, and the run is on the CPU"):
        ranks.run(2, tiny.train, tiny.config(Accelerate(config_file=str(path))))


def test_the_cpu_asked_for_and_a_gpu_found_is_an_error_too() -> None:
    """With train.device=auto the device is known only where the accelerator is made."""
    from trainer.strategies.accelerate_engine import make_accelerator

    asked = {"distributed_type": "NO", "use_cpu": True}
    with pytest.raises(ConfigError, match=r"^strategy=accelerate: use_cpu: true, and the run is on CUDA; set train.device=cpu$"):
        make_accelerator(tiny.config(Accelerate()), torch.device("cuda"), 1, asked)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    strategy = Accelerate(config_file=str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file or directory\); give the path"):
        strategy.check(tiny.config(strategy), 2)
    assert refused("a: [", tmp_path).startswith("is not YAML (")


def test_what_accelerate_launch_asks_for_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no"}) == {
        "mixed_precision": "no",
        "dynamo_config": {"dynamo_backend": "NO"},
    }
    Accelerate().check(tiny.config(Accelerate()), 2)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"accelerate launch: distributed_type: DEEPSPEED is not done .*strategy=zero2"):
        Accelerate().check(tiny.config(Accelerate()), 2)


@pytest.mark.parametrize("text", ["distributed_type: MULTI_CPU", None])
def test_accumulation_by_accelerate_is_refused(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `backward` would divide by the steps what is scaled already, whether or not there is a file."""
    strategy = Accelerate()
    if text is not None:
        strategy = Accelerate(config_file=str(tmp_path / "accelerate.yaml"))
        (tmp_path / "accelerate.yaml").write_text(text)
    config = tiny.config(strategy)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")  # what `accelerate launch --use_deepspeed` sets
    strategy.check(config, 2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    message = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4: is not supported by strategy=accelerate; unset it: train.micro_batch_size gives accumulation"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        strategy.check(config, 2)
    with pytest.raises(ranks.RankFailed, match=f"ConfigError: {message}"):  # a process that another machine started
        ranks.run(1, tiny.train, config, env={"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})


def test_not_installed_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"strategy=accelerate needs the package 'accelerate', .*\[accelerate\]"):
        Accelerate().validate()


def test_its_config_is_checked_without_torch() -> None:
    code = "import sys; from trainer.strategies.accelerate import Accelerate; Accelerate().validate(); assert not {'torch', 'accelerate'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
