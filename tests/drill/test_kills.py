"""Kills at random moments, by the hundred: of any process of a run, in start-up, steps, saves, evaluations and the end."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import ROOT
from trainer.checkpoint.directory import directory
from trainer.config import Config
from trainer.data.synthetic import Synthetic
from trainer.drill import processes
from trainer.drill.outcome import differences
from trainer.drill.run import Run
from trainer.launchers.local import Local
from trainer.models.gpt import GPT
from trainer.sections import CheckpointConfig, EvalConfig, RunConfig, TrainConfig
from trainer.strategies.base import Strategy
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP
from trainer.whereabouts import Phase

KILLS = int(os.environ.get("TRAINER_KILLS", "200"))
STEPS = 60
IN_A_RUN = 6


def make(run_dir: Path, strategy: Strategy, overlap: bool) -> Config:
    return Config(
        run_dir=str(run_dir),
        strategy=strategy,
        model=GPT(layers=1, dim=16, heads=2, dropout=0.1),
        data=Synthetic(seq_len=16),
        launcher=Local(nproc_per_node=2),
        train=TrainConfig(max_steps=STEPS, global_batch_size=4),
        eval=EvalConfig(every=5),
        checkpoint=CheckpointConfig(every=3, overlap=overlap),
        run=RunConfig(max_restarts=1000),
    )


def whole(run: Run) -> float:
    """Let a run go on to its end, started again as often as its launcher was killed; returns the seconds of the last start."""
    began = time.monotonic()
    while run.wait() != 0:
        assert run.statuses[-1] == -signal.SIGKILL, f"exit status {run.statuses[-1]}{run.last_words()}"
        began = time.monotonic()
        run.start()
    return time.monotonic() - began


def kill(run: Run, rng: random.Random, seconds: float) -> str:
    """End a random process of the run at a random moment; returns in which phase rank 0 then was. "": the run was over before."""
    if rng.random() < 0.4:
        end = time.monotonic() + rng.random() * seconds
        in_time = run.until(lambda: time.monotonic() > end)
    else:  # start-up takes most of a short run: else nearly all would be there
        phase, step = rng.choice(list(Phase)), rng.randrange(STEPS * 3 // 4)
        in_time = run.until(lambda: run.where()[1] is phase and run.where()[0] >= step)
    found = processes.marked(run.mark)
    if not in_time or not found:
        return ""
    phase = run.where()[1]
    return str(phase or Phase.START_UP) if processes.send(rng.choice(found), signal.SIGKILL) else ""


@pytest.mark.large
@pytest.mark.timeout(7200)
def test_kills_at_random_moments_change_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seed = int(os.environ.get("TRAINER_KILLS_SEED", secrets.randbelow(2**31)))
    rng, counts, runs, wrong = random.Random(seed), Counter[str](), 0, list[str]()
    kinds = [(DDP(), True), (FSDP(), True), (DDP(), False)]
    references: dict[int, tuple[Path, float]] = {}
    while counts.total() < KILLS:
        kind = runs % len(kinds)
        if kind not in references:
            run = Run(make(tmp_path / f"reference-{kind}", *kinds[kind]), timeout=300)
            run.start()
            references[kind] = directory(run.run_dir, STEPS), whole(run)
            assert run.close() == []
        reference, seconds = references[kind]
        run = Run(make(tmp_path / f"killed-{runs}", *kinds[kind]), timeout=600)
        runs += 1
        try:
            run.start()
            for _ in range(min(IN_A_RUN, KILLS - counts.total())):
                killed = kill(run, rng, seconds)
                counts.update([killed] * bool(killed))
                if run.over():
                    assert run.statuses[-1] in (0, -signal.SIGKILL), f"exit status {run.statuses[-1]}{run.last_words()}"
                    if run.statuses[-1] == 0:
                        break
                    run.start()
            if run.statuses[-1:] != [0]:
                whole(run)
            apart = differences(directory(run.run_dir, STEPS), reference)
        finally:
            left = run.close()
        wrong += [f"run {runs}: {what}" for what in [*apart, *left]]
    phases = ", ".join(f"{count} in {phase}" for phase, count in counts.most_common())
    print(f"{counts.total()} kills in {runs} runs, seed {seed}: {phases}; {len(wrong)} wrong results")  # `make test-large` shows it
    assert wrong == []
