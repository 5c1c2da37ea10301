"""Runs the workers on this machine: in this process, or as child processes that it watches."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer import launch_id
from trainer.errors import ConfigError, Interrupted
from trainer.launchers.base import TRAIN, Launcher, count_gpus, is_rank, load_work
from trainer.launchers.processes import run_children
from trainer.launchers.ranks import INTERRUPTED, failure_recorded
from trainer.launchers.restarts import with_restarts
from trainer.signals import kept, until_asked

if TYPE_CHECKING:
    from trainer.config import Config


@dataclass(kw_only=True)
class Local(Launcher):
    """Processes of this machine; several machines with `nnodes`, started once on each.

    Under torchrun (which sets RANK and WORLD_SIZE) each process is one rank, and these knobs are torchrun's.
    """

    nnodes: int = 1
    """Machines that take part."""
    node_rank: int = 0
    """Which of them this is; 0 is the one at `master_addr`."""
    master_addr: str | None = None
    """Address of machine 0, as the others reach it; null with one machine."""
    master_port: int | None = None
    """Port on machine 0; null: a free one (one machine only)."""
    interface: str | None = None
    """Network interface for gloo and NCCL; null: theirs to choose."""

    def validate(self) -> None:
        if self.nnodes < 1:
            raise ConfigError(f"launcher.nnodes={self.nnodes}: must be at least 1")
        if not 0 <= self.node_rank < self.nnodes:
            raise ConfigError(f"launcher.node_rank={self.node_rank}: must be from 0 to {self.nnodes - 1} (launcher.nnodes={self.nnodes})")
        if self.master_port is not None and not 1 <= self.master_port <= 65535:
            raise ConfigError(f"launcher.master_port={self.master_port}: must be from 1 to 65535, or null for a free one (one machine only)")
        if self.nnodes > 1 and (self.master_addr is None or self.master_port is None):
            missing = "launcher.master_addr" if self.master_addr is None else "launcher.master_port"
            raise ConfigError(
                f"{missing}: {self.nnodes} machines (launcher.nnodes) need the address of machine 0 and a free port there, the same on all: "
                "launcher.master_addr=HOST launcher.master_port=29500"
            )

    def per_node(self) -> list[str]:
        return ["node_rank", "interface"]

    def world_size(self, config: Config) -> int:
        if is_rank():
            return int(os.environ["WORLD_SIZE"])
        return self.nnodes * self.processes(config)

    def check_min_ranks(self, config: Config) -> None:
        if is_rank():  # torchrun chooses the number
            return
        if self.nnodes > 1:
            raise ConfigError(
                f"run.min_ranks={config.run.min_ranks}: is for one machine, and there are launcher.nnodes={self.nnodes}, whose launchers cannot agree; "
                "use torchrun with NNODES=MIN:MAX (launch/torchrun.sh)"
            )
        super().check_min_ranks(config)

    def place(self) -> tuple[bool, str]:
        if is_rank():
            return os.environ["RANK"] == "0", os.environ.get("TORCHELASTIC_RUN_ID", "")
        return self.node_rank == 0, f"{self.master_addr}:{self.master_port}" if self.nnodes > 1 else ""

    def launch(self, config: Config, work: str = TRAIN) -> None:
        self.check_gpus(config)
        if is_rank() and config.run.max_restarts:
            most = config.run.max_restarts
            raise ConfigError(
                f"run.max_restarts={most}: has no effect under torchrun, which starts its ranks again itself; leave it out, and give torchrun "
                f"--max-restarts {most} (MAX_RESTARTS={most} launch/torchrun.sh)"
            )
        lock = self.lock(config)
        with kept([]) as asked:
            try:
                self._launch(config, work, asked, lock)
            except KeyboardInterrupt:
                raise Interrupted(INTERRUPTED) from None

    def _launch(self, config: Config, work: str, asked: list[int], lock: AbstractContextManager) -> None:
        if is_rank():
            from trainer.distributed import Place

            place = Place.from_env()
            with failure_recorded(place.rank), lock:  # let go before the process ends at once
                load_work(work)(config, place, asked)
            return
        with lock:
            self._run(config, work, asked)

    def _run(self, config: Config, work: str, asked: list[int]) -> None:
        until_asked(asked, lambda: _prepare(config))
        nproc = self.processes(config)
        if nproc * self.nnodes == 1 and config.run.max_restarts == 0:
            from trainer.distributed import Place

            load_work(work)(config, Place(), asked)
            return
        launch = launch_id.new()

        def room(ranks: int) -> int:
            gpus = count_gpus() if config.train.device.name != "cpu" else 0
            return min(ranks, gpus or ranks)

        with_restarts(config, nproc, lambda ranks: run_children(self, config, ranks, work, launch, asked), room, asked)


def _prepare(config: Config) -> None:
    """Have the data prepared once, and what is wrong with it said, before torch is imported and any process starts."""
    for split in ("train", "eval"):
        samples = config.data.open(split)
        config.model.check(samples.spec)
