"""python -m tests.prove.run_bugs OUT.json: prove sound and spoilt strategies in a process that can fork ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch._dynamo
import torch.distributed.fsdp

from tests.prove import bugs, resume_bugs
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.launchers.local import Local
from trainer.prove import cells, record, verdict
from trainer.prove.options import ProveOptions
from trainer.prove.plan import Cell
from trainer.prove.reference import find_reference
from trainer.sections import OptimConfig, TrainConfig
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP, HSDP
from trainer.strategies.single import Single

OPTIONS = ProveOptions(steps=4, global_batch_size=8, micro_batch_size=1)
RESUME_AT = 2
BASE = Config(
    run_dir="unused",
    strategy=Single(),
    model=bugs.Watching(layers=2, dim=32, heads=2),
    data=Synthetic(vocab_size=64, seq_len=16, uneven=True),
    launcher=Local(nproc_per_node=1),
    train=TrainConfig(max_steps=OPTIONS.steps, global_batch_size=8, micro_batch_size=1),
    optim=OptimConfig(lr=1e-5),  # small: what weight decay does is small beside the loss
)


def cell(name: str, strategy: Strategy, ranks: int = 2) -> Cell:
    return Cell(name, ranks, dataclasses.replace(BASE, strategy=strategy, launcher=Local(nproc_per_node=ranks)))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        reference = find_reference(BASE, OPTIONS, work, RESUME_AT)
        regrouped = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, micro_batch_size=4))
        (control,) = cells.run([Cell("control", 1, regrouped)], reference, work, 60, 1, lambda row: None)
        cells.leave_out_touchy_buffers(reference, work / "control-1")
        sound = [cell("single", Single(), 1), *(cell(kind.name, kind(), ranks) for kind in (DDP, FSDP, HSDP) for ranks in (2, 4))]
        spoilt = [cell(kind.__name__, kind()) for kind in (*bugs.BUGS, bugs.Fails, bugs.Dies)]
        rows = cells.run([*sound, *spoilt], reference, work, 60, cells.cores(), lambda row: None)
        rows += cells.run([cell("Hangs", bugs.Hangs())], reference, work, 3, 2, lambda row: None)
        resumed = [cell(f"{kind.name} resumed", kind(), ranks) for kind in (DDP, FSDP) for ranks in (2, 4)]
        resumed += [cell(kind.__name__, kind()) for kind in resume_bugs.BUGS]
        rows += cells.run(resumed, reference, work, 60, cells.cores(), lambda row: None, RESUME_AT)
        verdict.soften(rows, control)
        result = verdict.conclude(rows, control, reference, None)
        header = record.header(BASE, BASE, OPTIONS, reference, "cpu", "a test")
        out.write_text(json.dumps(record.document(header, rows, control, result, 0.0), allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
