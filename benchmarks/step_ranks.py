"""One rank of the benchmark `step`: for each pair, both loops are made in the same processes and take turns.

`torchrun ... -m benchmarks.step_ranks CONFIG_YAML OUT_DIR WARM_UP BLOCK TURNS LEAST MOST WIDTH`; rank 0 writes OUT_DIR/times.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist

from benchmarks import bare
from benchmarks.measure import collect, order
from trainer import callbacks, distributed, worker
from trainer import config as configs
from trainer.bad_steps import Start
from trainer.callbacks.watchers import Watchers
from trainer.checkpoint.saver import Saver
from trainer.config import Config
from trainer.data.base import Samples
from trainer.data.tokens import Packed
from trainer.loop import Mark, train_steps
from trainer.recording import Progress, run_info
from trainer.schedule import lr_factor
from trainer.sections import CheckpointConfig
from trainer.state import Position

Run = Callable[[int], None]
"""Takes so many steps."""


def by_trainer(config: Config, run_dir: Path, samples: Samples, device: torch.device, stack: ExitStack) -> Run:
    """The worker's own lines for its steps: the loader, the loop, and on rank 0 metrics.jsonl and progress lines."""
    assert config.strategy is not None
    engine = worker.build_engine(config, samples, device, config.strategy.mesh(dist.get_world_size(), device.type))
    loader = worker.make_loader(config, samples, device, range(1, config.train.max_steps + 1))
    stack.callback(loader.close)
    position = Position(0, 0)
    info = run_info(config, run_dir, samples, engine, position, None)
    watchers = Watchers(callbacks.make(config, run_dir) if dist.get_rank() == 0 else ())
    watchers.on_start(info)
    stack.callback(watchers.close)
    progress = Progress(position, Mark(device), loader.order, Start("never"))
    saver = Saver(engine, run_dir, CheckpointConfig(overlap=False), {}, 0, lambda step, path: None)  # never due
    results = train_steps(engine, config.model, loader, config, 1, [])

    def run(steps: int) -> None:
        worker.consume(islice(results, steps), engine, config, samples, saver, progress, info, watchers, [])

    return run


def by_hand(config: Config, run_dir: Path, samples: Samples, device: torch.device, stack: ExitStack) -> Run:
    """The loop of `benchmarks.bare`; rank 0 writes each step's loss, norm and rate to a file."""
    assert config.strategy is not None
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(config.train.seed)
    step_once = bare.MAKERS[config.strategy.name](config.model.build(samples.spec), config)
    assert isinstance(samples, Packed)
    batches = bare.batches(samples.ids, samples.seq_len, config.train.global_batch_size // ranks, config.train.seed + rank)
    log: TextIO | None = stack.enter_context((run_dir / "by_hand.jsonl").open("w", buffering=1)) if rank == 0 else None
    done = 0

    def run(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            loss, norm = step_once(next(batches))
            done += 1
            if ranks > 1:
                dist.all_reduce(loss)  # the loss of the global batch, which is what the trainer shows too
            if log is not None:
                rate = config.optim.lr * lr_factor(config.optim, done, config.train.max_steps)
                log.write(json.dumps({"step": done, "loss": loss.item() / ranks, "grad_norm": float(norm), "lr": rate}) + "\n")
                if done % config.log.every == 0:
                    print(f"step {done}: loss {loss.item() / ranks:.4f}", flush=True)

    return run


def seconds(run: Run, steps: int) -> float:
    """Of the slowest rank, for `steps` steps that all ranks begin together."""
    dist.barrier()
    start = time.perf_counter()
    run(steps)
    elapsed = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
    dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
    return float(elapsed)


def main() -> None:
    config, run_dir = configs.load(Path(sys.argv[1])), Path(sys.argv[2])
    warm_up, block, turns, least, most = map(int, sys.argv[3:8])
    width = float(sys.argv[8])
    place, device = distributed.Place.from_env(), torch.device("cpu")
    times: dict[str, list[float]] = {"trainer": [], "other": []}
    loops = {"trainer": by_trainer, "other": by_hand}

    def pair(number: int) -> float:
        # Made anew each time: where its tensors happen to lie makes one instance of a loop some percent faster than another.
        names = order(number, list(loops))
        with ExitStack() as stack:
            runs = {name: loops[name](config, run_dir, samples, device, stack) for name in names}
            for name in names:
                seconds(runs[name], warm_up)
            # Short turns one right after the other: the machine's drift is the same for both.
            taken = [{name: seconds(runs[name], block) / block for name in order(turn, names)} for turn in range(number * turns, (number + 1) * turns)]
        for name in names:
            times[name].append(statistics.median(turn[name] for turn in taken))
        return statistics.median(turn["trainer"] / turn["other"] for turn in taken)

    distributed.init(place, device)
    samples = config.data.open("train")
    ratios = collect(pair, least, most, width)
    distributed.close()
    if place.rank == 0:
        (run_dir / "times.json").write_text(json.dumps(times | {"ratio": ratios}), encoding="utf-8")


if __name__ == "__main__":
    main()
