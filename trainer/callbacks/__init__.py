"""What watches a run on rank 0: metrics on disk, the run's record, Weights & Biases, what a person sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.state import Callback

if TYPE_CHECKING:
    from trainer.config import Config


def make(config: Config, run_dir: Path) -> list[Callback]:
    """The callbacks that `config` asks for, in the order in which they are to be called.

    What is written comes first, so that nothing is shown that is not on disk.

    Raises:
        ConfigError: `wandb.enabled` without the extra `wandb`.
    """
    from trainer.callbacks.ledger import Ledger
    from trainer.callbacks.metrics import Metrics
    from trainer.callbacks.record import RunRecord
    from trainer.callbacks.report import Report

    callbacks: list[Callback] = [Metrics(run_dir), Ledger(run_dir), RunRecord(run_dir), Report(run_dir)]
    if config.wandb.enabled:
        from trainer.callbacks.wandb import Wandb

        callbacks.append(Wandb(run_dir, config.wandb.project, config.wandb.name))
    if config.log.progress:
        from trainer.callbacks.progress import Progress

        callbacks.append(Progress(config.log.every))
    return callbacks
