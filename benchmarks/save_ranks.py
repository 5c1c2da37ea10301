"""One rank of the benchmark `save`: both kinds of save in the same processes, in turns, each after a step of training.

`torchrun ... -m benchmarks.save_ranks CONFIG_YAML OUT_DIR LEAST MOST WIDTH`; rank 0 writes OUT_DIR/times.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.measure import collect, order
from benchmarks.step_ranks import seconds
from trainer import config as configs
from trainer import distributed, worker
from trainer.checkpoint.saver import Saver
from trainer.loop import train_steps
from trainer.sections import CheckpointConfig
from trainer.state import Position


def main() -> None:
    config, run_dir = configs.load(Path(sys.argv[1])), Path(sys.argv[2])
    least, most, width = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    place, device = distributed.Place.from_env(), torch.device("cpu")
    distributed.init(place, device)
    samples = config.data.open("train")
    assert config.strategy is not None
    engine = worker.build_engine(config, samples, device, config.strategy.mesh(dist.get_world_size(), device.type))
    loader = worker.make_loader(config, samples, device, range(1, config.train.max_steps + 1))
    steps = train_steps(engine, config.model, loader, config, 1, [])
    kinds = {"overlap": True, "wait": False}
    facts = {"config": configs.to_plain(config)}
    savers = {
        name: Saver(engine, run_dir / name, CheckpointConfig(overlap=overlap, keep=1), facts, 0, lambda step, path: None) for name, overlap in kinds.items()
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}

    def pair(number: int) -> float:
        for name in order(number, list(kinds)):
            step = next(steps).step
            times[name].append(seconds(lambda step: savers[name].save(Position(step, 0)), step))  # noqa: B023
            savers[name].wait()
            if savers[name].saved != step:
                raise RuntimeError(f"{name}: step {step} could not be saved; is the disk full?")
        return times["overlap"][-1] / times["wait"][-1]

    pair(0)  # the first copy takes its memory, as the first save of a run does
    first = {name: taken.pop() for name, taken in times.items()}
    collect(pair, least, most, width)
    loader.close()
    distributed.close()
    if place.rank == 0:
        for name in kinds:
            shutil.rmtree(run_dir / name)
        memory = {"kept": savers["overlap"].kept_bytes, "made": savers["overlap"].made_bytes}
        (run_dir / "times.json").write_text(json.dumps(times | {"first": first} | memory), encoding="utf-8")


if __name__ == "__main__":
    main()
