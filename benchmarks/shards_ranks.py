"""One rank of the benchmark `shards`: it makes the model that is compressed, or compresses it.

`torchrun ... -m benchmarks.shards_ranks make CONFIG_YAML`, or `... compress SMALL_CONFIG_YAML CONFIG_YAML OUT_DIR`: after that,
OUT_DIR/rank-N.json says how many bytes more this rank has needed at most than for the small model, which it compresses first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from trainer import config as configs
from trainer import distributed, worker
from trainer.checkpoint.save import write
from trainer.config import Config
from trainer.distributed import Place
from trainer.memory import peak_bytes
from trainer.posttrain import values
from trainer.posttrain.worker import compress
from trainer.state import Position


def make(config: Config) -> None:
    """Save the model of `config` with its initial values in `config.run_dir`."""
    distributed.init(Place.from_env(), torch.device("cpu"))
    samples = config.data.open("train")
    engine = values.without_values(config.model, config, samples, torch.device("cpu"))
    write(values.model_state(engine), Position(0, 0), Path(str(config.run_dir)), worker.manifest_facts(config, samples))
    distributed.close()


def measure(small: Config, config: Config, out: Path) -> None:
    """Compress both as a command does it; what the first takes is imported and set up by then."""
    place = Place.from_env()
    compress(small, place)
    before = peak_bytes("cpu")
    compress(config, place)
    (out / f"rank-{place.rank}.json").write_text(json.dumps(peak_bytes("cpu") - before), encoding="utf-8")


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    if what == "make":
        make(configs.load(Path(paths[0])))
    else:
        measure(configs.load(Path(paths[0])), configs.load(Path(paths[1])), Path(paths[2]))
