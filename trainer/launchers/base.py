"""What a launcher is: it runs `trainer.worker.run` on every rank."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.part import Part

if TYPE_CHECKING:
    from trainer.config import Config


@dataclass(kw_only=True)
class Launcher(Part):
    """Runs the workers and returns when the run is done."""

    nproc_per_node: int | None = None
    """Processes on each node. Null: one a GPU; without GPUs 2 for a strategy of several processes, else 1."""

    @abstractmethod
    def launch(self, config: Config) -> None:
        """Run the workers to the end.

        Raises:
            RunError: a rank failed; the message names it, with its traceback.
            Stopped: the run was asked to stop and can be resumed.
        """

    @abstractmethod
    def world_size(self, config: Config) -> int:
        """How many processes `launch` will run, over all nodes."""

    def per_node(self) -> list[str]:
        """Fields that differ from node to node in one run (left out of the run's name)."""
        return []
