"""After training: start the workers that compress, and say what they have found. Nothing here imports torch.

A chain is cut into stages, each an ordinary run directory made from the one before: layers in another form, a training, a compression.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import config as configs
from trainer.callbacks.metrics import METRICS
from trainer.checkpoint.directory import finished, list_whole, read_manifest
from trainer.compress.base import Compressor, FineTune
from trainer.errors import ConfigError, RunError
from trainer.explain import run as explaining
from trainer.models.base import Model
from trainer.posttrain import index
from trainer.posttrain.chains import COMPRESS, COMPRESSED, PICTURES
from trainer.posttrain.report import export_lines, lines, write
from trainer.report import page as report
from trainer.writing import write_whole

if TYPE_CHECKING:
    from trainer.config import Config

LAYERS, FIGURES = "layers.json", "figures.json"
CHECK, PREPARE, COMPRESS_WORK, MEASURE = (f"trainer.posttrain.worker:{work}" for work in ("fit", "prepare", "compress", "measure"))


def check(config: Config) -> None:
    """Refuse a chain that makes no sense, before anything starts.

    Raises:
        ConfigError: names the methods.
    """
    if not configs.goes_on(config):
        raise ConfigError("compress: is empty; say what is to be done, such as compress=[prune,quantize], export=[onnx], explain=[shap] or assess=credit")
    if config.explain:
        explaining.check(config)
    if config.assess:
        from trainer.assess.check import check as check_assess

        check_assess(config)
    last = reformed = None
    for name, part in config.compress.items():
        chain = f"compress=[{','.join(config.compress)}]"
        if part.recovers and name == next(iter(config.compress)):
            raise ConfigError(f"{chain}: {name} wins back what was lost before it, and stands first; put what compresses before it")
        if last is not None:
            raise ConfigError(f"{chain}: nothing can follow {last}, which {config.compress[last].ends}; put {name} before it")
        if part.plain and reformed is not None:
            raise ConfigError(f"{chain}: {name} needs layers in their plain form, and {reformed} leaves them in another; put {name} before it")
        part.training().validate(f"compress.{name}.finetune")
        last = name if part.ends else None
        reformed = name if part.reforms else reformed


def posttrain(config: Config) -> None:
    """Do to the finished run of `config` what `config.compress` says, measure the model before and after, and print the table.

    What comes out is written for the runtimes of `config.export`, explained as `config.explain` says and assessed as `config.assess` says.

    Raises:
        ConfigError: the chain makes no sense, there is nothing to compress, or a method does not fit.
        RunError: the quality lost is above `posttrain.max_quality_loss`; the compressed model is there all the same.
    """
    assert config.run_dir is not None
    check(config)
    run_dir = Path(config.run_dir)
    source = newest(run_dir)
    try:
        if config.compress:
            _compressed(config, run_dir, source)
        else:
            _used(config, run_dir)
    finally:  # a model that has lost too much is there all the same
        if (run_dir / METRICS).is_file():
            report.write(run_dir)


def _compressed(config: Config, run_dir: Path, source: Path) -> None:
    out = output(run_dir, config)
    at, number = source, 0
    told: dict[str, Any] = {}
    parts = list(stages(config.compress))
    if len(parts) > 1:  # before a training, and not after it
        config.launcher.launch(_on(config, source, out), CHECK)
    for names, last in parts:
        stage = dataclasses.replace(config, compress={name: config.compress[name] for name in names})
        tune = config.compress[names[0]].training()
        if tune.steps:
            number += 1
            place = out / "stages" / f"{number}-{names[0]}"
            at = _launched(stage, PREPARE, at, place)
            _tell(told, place)
            at = _trained(stage, tune, source, at, out / "stages" / f"{number}-{names[0]}-trained")
        number += 1
        place = out if last else out / "stages" / f"{number}-{'-'.join(names)}"
        at = _launched(stage, COMPRESS_WORK, at, place)
        _tell(told, place)
    config.launcher.launch(_on(config, source, out), MEASURE)
    chain = {name: configs.to_plain(part) for name, part in config.compress.items()}
    figures = _read(out / FIGURES)
    write_whole(out / PICTURES, json.dumps(figures.pop("pictures")))
    found = {"from": str(source), "made": str(at), "chain": chain, **figures, "layers": told}
    write_whole(out / COMPRESS, json.dumps(found, indent=1))
    print("\n".join(lines(found)))
    print(f"compressed model {out}\nreport {write(out)}\nall of this run {index.write(run_dir)}")
    _judge(config, found)
    _used(config, out)


def _used(config: Config, run_dir: Path) -> None:
    """Export, explain and assess the newest model of `run_dir`."""
    first = config.launcher.place()[0]
    if config.export and first:
        from trainer.export.run import export

        print("\n".join(export_lines(export(config, run_dir))))
    if config.explain:
        config.launcher.launch(_on(config, newest(run_dir), run_dir), explaining.EXPLAIN)
        if first:
            print("\n".join(explaining.lines(run_dir)))
    if config.assess and first:
        from trainer.assess.run import assess
        from trainer.assess.told import lines as assess_lines

        print("\n".join(assess_lines(assess(config, run_dir))))
    if first and (run_dir / COMPRESS).is_file():
        write(run_dir)


def stages(chain: dict[str, Compressor]) -> Iterator[tuple[list[str], bool]]:
    """(methods that are done by the same workers, whether they are the last); one that trains begins another stage."""
    groups: list[list[str]] = []
    for name, part in chain.items():
        if part.training().steps or not groups:
            groups.append([])
        groups[-1].append(name)
    for number, names in enumerate(groups, 1):
        yield names, number == len(groups)


def output(run_dir: Path, config: Config) -> Path:
    """The run directory of the compressed model: named after its chain, and a hash of what is asked of it."""
    return run_dir / COMPRESSED / f"{'-'.join(config.compress)}-{configs.digest({name: configs.to_plain(part) for name, part in config.compress.items()})}"


def newest(run_dir: Path) -> Path:
    """The newest whole checkpoint of `run_dir`."""
    whole = list_whole(run_dir)
    if not whole:
        raise ConfigError(f"{run_dir}: has no whole checkpoint to compress; train first")
    return whole[-1]


def _tell(told: dict[str, Any], place: Path) -> None:
    """Add what `place` tells of the layers to `told`: a method that trains tells before it and after."""
    for method, layers in _read(place / LAYERS).items():
        before = told.setdefault(method, {})
        for layer, figures in layers.items():
            before[layer] = {**before.get(layer, {}), **figures}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def model_of(checkpoint: Path) -> Model:
    """The model that a checkpoint has the values of."""
    return configs.part_from_plain(read_manifest(checkpoint)["config"]["model"])


def _on(config: Config, start: Path, out: Path) -> Config:
    """`config` for work on the checkpoint `start`, which says what model it is of."""
    model = model_of(start)
    return dataclasses.replace(config, model=model, run_dir=str(out), checkpoint=dataclasses.replace(config.checkpoint, resume=str(start)))


def _launched(config: Config, work: str, start: Path, out: Path) -> Path:
    config.launcher.launch(_on(config, start, out), work)
    return newest(out)


def _trained(config: Config, tune: FineTune, source: Path, start: Path, out: Path) -> Path:
    """Train the model of the checkpoint `start` in `out`, where an earlier training goes on; returns its last checkpoint."""
    from trainer.compress.model import Compressed

    (part,) = [part for part in config.compress.values() if part.training().steps]
    prepared = model_of(start)
    base, forms = (prepared.base, prepared.forms) if isinstance(prepared, Compressed) else (prepared, {})
    model = part.in_training(Compressed(base=base, forms=forms, start=str(start.resolve())), model_of(source), str(source.resolve()))
    training = dataclasses.replace(
        configs.training_alone(config),
        model=model,
        run_dir=str(out),
        train=dataclasses.replace(config.train, max_steps=tune.steps, stop_at=None),
        optim=dataclasses.replace(config.optim, lr=tune.lr or config.optim.lr / 10, warmup_steps=min(config.optim.warmup_steps, tune.steps // 10)),
        checkpoint=dataclasses.replace(config.checkpoint, resume="auto"),
    )
    if not finished(training):
        training.launcher.launch(training)
    return newest(out)


def _judge(config: Config, found: dict) -> None:
    limit, quality = config.posttrain.max_quality_loss, config.posttrain.quality
    if limit is not None and not found["quality_loss"] <= limit:
        before, after = (found[when]["metrics"][quality]["value"] for when in ("before", "after"))
        raise RunError(
            f"{quality} went from {before:.6g} to {after:.6g}, which is {found['quality_loss']:.2%} worse; posttrain.max_quality_loss={limit} "
            f"allows {limit:.2%}. Ask for less compression, or give it training (compress.METHOD.finetune.steps)"
        )
