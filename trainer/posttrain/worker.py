"""What each rank does after training: load the model cut over the ranks, compress it, measure it before and after, save it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer import config as configs
from trainer import distributed
from trainer import worker as training
from trainer.checkpoint.directory import list_whole, read_manifest
from trainer.checkpoint.save import write
from trainer.compress.subject import Subject
from trainer.config import Config
from trainer.distributed import Place
from trainer.errors import ConfigError
from trainer.loop import evaluate
from trainer.posttrain import values
from trainer.posttrain.run import chain_name, output
from trainer.state import Position
from trainer.writing import write_whole


def run(config: Config, place: Place, asked: list[int] | None = None) -> None:
    """Compress the newest checkpoint of `config.run_dir` as `config.compress` says, as one rank of `place.world_size`.

    Raises:
        ConfigError: a method does not fit the model.
    """
    assert config.run_dir is not None
    device = distributed.pick_device(config.train.device.name, place.local_rank)
    distributed.init(place, device, [] if asked is None else asked)
    try:
        _run(config, Path(config.run_dir), device)
    finally:
        distributed.close()


def _run(config: Config, run_dir: Path, device: Any) -> None:
    whole = distributed.from_rank_0(lambda: list_whole(run_dir))
    if not whole:
        raise ConfigError(f"{run_dir}: has no whole checkpoint to compress; train first")
    manifest = distributed.from_rank_0(lambda: read_manifest(whole[-1]))
    samples, held_out = config.data.open("train"), config.data.open("eval")
    engine = values.without_values(config.model, config, samples, device)
    values.load(engine, whole[-1])
    subject = Subject(config.model, engine, samples, config.eval.batch_size)
    for name, part in config.compress.items():
        part.check(subject.layers(), f"compress.{name}")
    before = measure(subject, held_out, config)
    told: dict[str, Any] = {}
    for name, part in config.compress.items():
        change = part.run(subject)
        told[name] = change.told
        subject = values.changed(subject, change, config)
    after = measure(subject, held_out, config)
    out = output(run_dir, chain_name(config))
    compressed = dataclasses.replace(config, model=subject.model, compress={}, run_dir=str(out))
    facts = training.manifest_facts(compressed, samples)
    write(values.model_state(subject.engine), Position(manifest["step"], manifest["tokens"]), out, {**facts, "imported_from": str(whole[-1])})
    if dist.get_rank() == 0:
        configs.save(compressed, out / "config.yaml")
        write_whole(out / "compress.json", json.dumps({"from": str(whole[-1]), "chain": list(config.compress), "before": before, "after": after, "layers": told}, indent=1))


def measure(subject: Subject, held_out: Any, config: Config) -> dict[str, float]:
    """Figures of the model as it is."""
    found = evaluate(subject.engine, subject.model, held_out, config.eval.batch_size)
    assert found is not None
    state = values.model_state(subject.engine)
    return {
        **found.means(),
        "parameters": float(sum(value.numel() for value in state.values())),
        "bytes": float(sum(value.numel() * value.element_size() for value in state.values())),
    }
