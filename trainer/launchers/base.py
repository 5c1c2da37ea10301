"""What a launcher is: it runs `trainer.worker.run`, or other work, on every rank."""

from __future__ import annotations

import importlib
import os
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import ConfigError
from trainer.part import Part

if TYPE_CHECKING:
    from trainer.config import Config


TRAIN = "trainer.worker:run"


@dataclass(kw_only=True)
class Launcher(Part):
    """Runs the workers and returns when the run is done."""

    nproc_per_node: int | None = None
    """Processes on each node. Null: one a GPU; without GPUs 2 for a strategy of several processes, else 1."""

    @abstractmethod
    def launch(self, config: Config, work: str = TRAIN) -> None:
        """Run the workers to the end: on each rank `work`, "module:function", is called as `trainer.worker.run` is.

        Raises:
            RunError: a rank failed; the message names it, with its traceback.
            Stopped: the run was asked to stop and can be resumed.
        """

    @abstractmethod
    def world_size(self, config: Config) -> int:
        """How many processes `launch` will run, over all nodes."""

    def processes(self, config: Config) -> int:
        """Processes on each node."""
        if self.nproc_per_node is not None:
            return self.nproc_per_node
        gpus = count_gpus() if config.train.device.name != "cpu" else 0
        several = config.strategy is not None and config.strategy.name != "single"
        return gpus or (2 if several else 1)

    def check_min_ranks(self, config: Config) -> None:
        """Raise `ConfigError` where this launcher cannot go on with fewer processes, as `run.min_ranks` asks."""
        if config.run.max_restarts == 0:
            raise ConfigError(f"run.min_ranks={config.run.min_ranks}: has no effect with run.max_restarts=0; give run.max_restarts=N")

    def check_gpus(self, config: Config) -> None:
        """Raise `ConfigError` where CUDA is asked for on this machine, which has no GPU: said before processes are started."""
        if config.train.device.name == "cuda" and count_gpus() == 0:
            raise ConfigError("train.device=cuda: PyTorch finds no GPU here; use train.device=auto or cpu, or install a driver and a CUDA build of PyTorch")

    def per_node(self) -> list[str]:
        """Fields that differ from node to node in one run (left out of the run's name)."""
        return []

    def place(self) -> tuple[bool, str]:
        """(whether this process, of all that are started by hand or by torchrun for one run, is the first; what they have in common)."""
        return True, ""

    def lock(self, config: Config) -> AbstractContextManager:
        """Hold `run_dir` for this run, from this call to the end of a `with` block: taken once, by the first process.

        Raises:
            ConfigError: another run is at work in it; the message says who.
        """
        from trainer.launch_id import started_again
        from trainer.run_lock import RunLock, refuse_if_held

        assert config.run_dir is not None
        first, launch = self.place()
        if first:
            return RunLock(Path(config.run_dir), launch, started_again())
        refuse_if_held(Path(config.run_dir), launch)
        return nullcontext()


def is_rank() -> bool:
    """Whether torchrun, or another launcher, made this process one rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def load_work(name: str) -> Callable[..., None]:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def count_gpus() -> int:
    """GPUs of this machine. PyTorch is asked (and imported) only where the system shows any."""
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()):
        return 0
    import torch

    return torch.cuda.device_count()
