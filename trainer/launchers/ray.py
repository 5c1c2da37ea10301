"""Runs the workers in a Ray cluster (Ray Train's TorchTrainer), or in a Ray that it starts on this machine."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.errors import ConfigError, missing_extra
from trainer.launchers.base import TRAIN, Launcher, is_rank

if TYPE_CHECKING:
    from trainer.config import Config


@dataclass(kw_only=True)
class Ray(Launcher):
    """Any strategy in Ray: `+strategy=fsdp launcher=ray`; `+strategy=ray` is DDP in Ray."""

    nnodes: int = 1
    """Workers are `nnodes * nproc_per_node`; Ray places them on as few machines as have room."""
    address: str | None = None
    """HOST:PORT of a running cluster, or auto. Null: the environment's RAY_ADDRESS, else a Ray is started here for this run."""
    resources_per_worker: dict[str, float] = field(default_factory=dict)
    """What each worker takes of the cluster, beyond its GPU: CPU (its threads too), or resources of your own.
    CPU is by default 1, and this machine's share of cores in a Ray started here."""

    def validate(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise missing_extra("ray", "ray", "launcher=ray")
        if self.nnodes < 1:
            raise ConfigError(f"launcher.nnodes={self.nnodes}: must be at least 1")
        address = self.cluster()
        if address is not None and address != "auto":
            host, _, port = address.rpartition(":")
            if "://" in address or not host or not port.isdigit():
                raise ConfigError(f"launcher.address={address}: must be HOST:PORT of a running Ray cluster (its GCS, usually port 6379), or auto")
        for name, amount in self.resources_per_worker.items():
            if amount <= 0:
                raise ConfigError(f"launcher.resources_per_worker.{name}={amount}: must be more than 0")

    def cluster(self) -> str | None:
        """Address of the cluster to join, or None to start one."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    def per_node(self) -> list[str]:
        return ["address"]

    def world_size(self, config: Config) -> int:
        return self.nnodes * self.processes(config)

    def launch(self, config: Config, work: str = TRAIN) -> None:
        if is_rank():
            raise ConfigError("launcher=ray: Ray starts the workers itself; run it without torchrun (RANK and WORLD_SIZE are set), or with launcher=local")
        from trainer.launchers.ray_driver import drive

        with self.lock(config):
            drive(self, config, work)
