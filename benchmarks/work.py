"""What is trained in the benchmarks, and how processes for it are started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from trainer import cli
from trainer import config as configs
from trainer.config import Config

RANKS = 2
ROOT = Path(__file__).resolve().parent.parent
COMMON = [
    "train.device=cpu",
    "optim.schedule=constant",
    "optim.warmup_steps=0",
    "optim.lr=1e-3",
    "eval.at_end=false",
    "model.sample_tokens=0",
]


@dataclass(frozen=True)
class Size:
    """A model and a batch that make a step of about so long on 2 ranks with one thread each."""

    name: str
    layers: int
    dim: int
    seq_len: int
    batch_per_rank: int
    warm_up: int
    """Steps of each loop that are not timed."""
    block: int
    """Steps that one loop takes before the other has its turn."""
    turns: int
    """Of each loop in a pair."""

    def overrides(self, ranks: int) -> list[str]:
        """This work as arguments of `python -m trainer`."""
        return [
            *COMMON,
            f"model.layers={self.layers}",
            f"model.dim={self.dim}",
            f"data.seq_len={self.seq_len}",
            f"train.global_batch_size={self.batch_per_rank * ranks}",
            f"launcher.nproc_per_node={ranks}",
        ]


SMALL = Size("10 ms", layers=2, dim=64, seq_len=64, batch_per_rank=4, warm_up=5, block=10, turns=6)
LARGE = Size("400 ms", layers=4, dim=256, seq_len=256, batch_per_rank=5, warm_up=2, block=1, turns=5)


def compose(overrides: list[str]) -> Config:
    """The config of these arguments.

    Raises:
        RuntimeError: they are wrong; the reason has been printed.
    """
    found: list[Config] = []
    if cli.main(found.append, overrides) or len(found) != 1:
        raise RuntimeError(f"no config from {overrides}")
    return found[0]


def save(overrides: list[str], path: Path) -> Path:
    """The config of these arguments, in a file for the ranks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    configs.save(compose(overrides), path)
    return path


def environment(**more: str) -> dict[str, str]:
    """For every process that is timed: one thread a core, and this checkout importable."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), **more}


def torchrun(ranks: int) -> list[str]:
    """The command that starts `ranks` processes of the module whose name follows."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
