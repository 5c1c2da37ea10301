"""What each rank does after training, with the model cut over the ranks: change its layers' form, compress it, measure it before and after."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer import config as configs
from trainer import distributed
from trainer import worker as training
from trainer.checkpoint.directory import has_manifest, list_whole, read_manifest
from trainer.checkpoint.reduction import take
from trainer.checkpoint.save import write
from trainer.compress.base import Compressor
from trainer.compress.subject import Change, Subject, layers_of
from trainer.config import Config
from trainer.data.base import Samples
from trainer.distributed import Place
from trainer.errors import Stopped
from trainer.loop import evaluate
from trainer.models.hf import HF
from trainer.part import called
from trainer.posttrain import values
from trainer.posttrain.measure import Spread, check_quality, latencies, measured
from trainer.posttrain.run import FIGURES, LAYERS, model_of
from trainer.state import Position
from trainer.strategies.engine import Engine
from trainer.writing import write_whole

Work = Callable[[Config, Path, Path, torch.device], None]


def prepare(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Give the model of the checkpoint `config.checkpoint.resume` the form in which `config.compress` trains it, in `config.run_dir`."""
    asked = [] if asked is None else asked
    with_ranks(partial(_change, lambda part, subject: part.prepare(subject), asked), config, place, asked)


def compress(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Compress the model of the checkpoint `config.checkpoint.resume` as `config.compress` says, into `config.run_dir`.

    Raises:
        ConfigError: a method does not fit the model.
        Stopped: some rank was asked to stop; the method at work has been done, and nothing is left of it.
    """
    asked = [] if asked is None else asked
    with_ranks(partial(_change, lambda part, subject: part.run(subject), asked), config, place, asked)


def fit(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Refuse a chain whose methods do not all fit the model of the checkpoint, before the first of them trains.

    Raises:
        ConfigError: names the method.
    """
    with_ranks(_fit, config, place, asked)


def import_model(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Save the model of `config`, with the values that it comes with, as the first checkpoint of `config.run_dir`."""
    with_ranks(_import, config, place, asked)


def measure(config: Config, place: Place, asked: list[int] | None = None, tell: object = None) -> None:
    """Measure the checkpoint `config.checkpoint.resume` and what `config.run_dir` holds, made from it."""
    with_ranks(_measure, config, place, asked)


def with_ranks(work: Work, config: Config, place: Place, asked: list[int] | None) -> None:
    """`work` of `config`, the checkpoint to start from, the directory to write to and the device, among all ranks."""
    assert config.run_dir is not None
    device = distributed.pick_device(config.train.device.name, place.local_rank)
    distributed.init(place, device, [] if asked is None else asked)
    try:
        if has_manifest(start := Path(config.checkpoint.resume)):
            take(start)
        work(config, start, Path(config.run_dir), device)
    finally:
        distributed.close()


def _go_on(asked: Sequence[int], device: torch.device) -> None:
    """Nothing, unless some rank was asked to stop: then all do. A collective."""
    stop = torch.tensor(float(bool(asked)), device=device)
    dist.all_reduce(stop, dist.ReduceOp.MAX)
    if stop:
        raise Stopped("before the chain was done; run the same command to do it anew")


def _change(do: Callable[[Compressor, Subject], Change], asked: Sequence[int], config: Config, start: Path, out: Path, device: torch.device) -> None:
    manifest = distributed.from_rank_0(lambda: read_manifest(start))
    samples = config.data.open("train")
    engine = values.without_values(config.model, config, samples, device)
    values.load(engine, start)
    found = evaluate(engine, config.model, Spread(samples, 1), 1)
    assert found is not None
    check_quality(config.posttrain.quality, found.means())
    subject = Subject(config.model, engine, samples, config.eval.batch_size)
    _check(config, subject.layers())
    told: dict[str, Any] = {}
    for name, part in config.compress.items():
        part.check(subject.layers(), f"compress.{name}")  # as those before it have left them
        with called("compress", name):
            change = do(part, subject)
        _go_on(asked, device)
        told[name] = change.told
        subject = values.changed(subject, change, config)
    made = dataclasses.replace(
        configs.training_alone(config), model=subject.model, run_dir=str(out), checkpoint=dataclasses.replace(config.checkpoint, resume="auto")
    )
    _save(made, subject.engine, samples, Position(manifest["step"], manifest["tokens"]), out, str(start))
    if dist.get_rank() == 0:
        write_whole(out / LAYERS, json.dumps({name: layers for name, layers in told.items() if layers}))
    dist.barrier()


def _fit(config: Config, start: Path, out: Path, device: torch.device) -> None:
    spec = config.data.open("train").spec
    with torch.device("meta"):
        module = config.model.build(spec)
    _check(config, layers_of(config.model, module))


def _check(config: Config, layers: Mapping[str, nn.Module]) -> None:
    for name, part in config.compress.items():
        part.check(layers, f"compress.{name}")
        if part.reforms:
            return  # what follows finds other layers


def _import(config: Config, start: Path, out: Path, device: torch.device) -> None:
    assert isinstance(config.model, HF)
    samples = config.data.open("train")
    engine = values.without_values(config.model, config, samples, device)  # without those of a checkpoint
    _save(configs.training_alone(config), engine, samples, Position(0, 0), out, str(Path(config.model.path or "").resolve()))
    dist.barrier()


def _save(made: Config, engine: Engine, samples: Samples, position: Position, out: Path, origin: str) -> None:
    write(values.model_state(engine), position, out, {**training.manifest_facts(made, samples), "imported_from": origin})
    if dist.get_rank() == 0:
        configs.save(made, out / "config.yaml")


def _measure(config: Config, start: Path, out: Path, device: torch.device) -> None:
    held_out = config.data.open("eval")
    if config.posttrain.evaluation_samples is not None:
        held_out = Spread(held_out, config.posttrain.evaluation_samples)
    made = distributed.from_rank_0(lambda: list_whole(out))[-1]
    found = measured([(model_of(path), path) for path in (start, made)], config, held_out, device)
    if dist.get_rank() == 0:
        if config.posttrain.latency_pairs:
            for figures, latency in zip((found["before"], found["after"]), latencies([start, made], held_out, config.posttrain.latency_pairs), strict=True):
                figures["latency"] = latency
        write_whole(out / FIGURES, json.dumps(found))
    dist.barrier()
