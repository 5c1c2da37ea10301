"""python -m benchmarks.peers.ray_ddp: Ray Train's TorchTrainer with DDP, in a cluster of its own on this machine."""

from __future__ import annotations

import os
import tempfile

import ray
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

PASSED_ON = ("PYTHONPATH", "OMP_NUM_THREADS")


def train_loop(environment: dict[str, str]) -> None:
    from benchmarks import stamps
    from benchmarks.peers.common import train_ddp

    os.environ.update(environment, RANK=str(dist.get_rank()))
    stamps.install()
    train_ddp(
        lambda module: prepare_model(module, parallel_strategy_kwargs={"gradient_as_bucket_view": True}),
        print,  # a report waits for the controller, which asks for it every other second
    )
    ray.train.report({})


def main() -> None:
    environment = {key: value for key, value in os.environ.items() if key in PASSED_ON or key.startswith("BENCHMARK_")}
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, runtime_env={"env_vars": environment}, log_to_driver=False)
    with tempfile.TemporaryDirectory() as directory:
        TorchTrainer(
            train_loop,
            train_loop_config=environment,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=directory),
        ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
