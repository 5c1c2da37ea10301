"""The commands that are compared, each as a person would give it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import Training, run_training
from benchmarks.work import RANKS, ROOT, SMALL, compose, torchrun

SIZE = SMALL  # the smaller the step, the more of it is the framework


@dataclass(frozen=True)
class Candidate:
    """A command that trains."""

    name: str
    command: Callable[[Path, int], list[str]]
    """From (its directory, steps)."""
    env: dict[str, str]

    def train(self, steps: int, directory: Path) -> Training:
        """Run it once, in a directory that it finds empty."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        return run_training(self.command(directory, steps), steps, directory / "log.txt", **self.env, BENCHMARK_WORK=work(directory.parent, steps))


def trainer_command(directory: Path, steps: int) -> list[str]:
    own = [f"--config-dir={ROOT / 'benchmarks' / 'configs'}", "model=stamped_gpt"]
    return [sys.executable, "-m", "trainer", *own, "+strategy=ddp", *SIZE.overrides(RANKS), f"train.max_steps={steps}", f"run_dir={directory / 'run'}"]


def _python(module: str) -> Callable[[Path, int], list[str]]:
    return lambda _, __: [sys.executable, "-m", module]


def _torchrun(module: str) -> Callable[[Path, int], list[str]]:
    return lambda _, __: [*torchrun(RANKS), module]


TRAINER = Candidate("trainer", trainer_command, {})
BARE = Candidate("bare script", _torchrun("benchmarks.peers.torchrun_ddp"), {})
PEERS = (
    Candidate("Accelerate", _torchrun("benchmarks.peers.accelerate_ddp"), {}),  # its own launcher starts one process on CPUs without MPI
    Candidate("Hugging Face Trainer", _torchrun("benchmarks.peers.hf_trainer"), {}),
    Candidate("Lightning", _python("benchmarks.peers.lightning_ddp"), {}),
    Candidate("Ray Train", _python("benchmarks.peers.ray_ddp"), {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}),
)


def work(directory: Path, steps: int) -> str:
    """`common.Work` as JSON; the tokens are those of `data=stdlib`, in a file that is made once."""
    tokens = directory / "tokens.bin"
    vocab = directory / "vocab.txt"
    if not vocab.exists():
        import numpy as np

        samples = compose(SIZE.overrides(RANKS)).data.open("train")
        np.asarray(samples.ids, np.uint16).tofile(tokens)  # type: ignore[attr-defined]
        vocab.write_text(str(samples.spec["vocab_size"]), encoding="utf-8")
    plain = {"layers": SIZE.layers, "dim": SIZE.dim, "seq_len": SIZE.seq_len, "batch": SIZE.batch_per_rank, "steps": steps}
    return json.dumps(plain | {"vocab_size": int(vocab.read_text(encoding="utf-8")), "tokens": str(tokens)})
