"""What a config must satisfy before anything starts. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer.errors import ConfigError, missing_extra
from trainer.part import called
from trainer.units import interval


def check_keys(node: DictConfig) -> None:
    """Refuse every key that no dataclass declares, however it was added (Hydra's `+` accepts any).

    Raises:
        ConfigError: names the key and the nearest known one.
    """
    known = list(known_keys(node))
    for key in _undeclared(node, ""):
        raise ConfigError(f"unknown key {key!r}{nearest(key, known)}")


def known_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Full names of all declared keys of a composed config."""
    cls = OmegaConf.get_type(node)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return
    for item in dataclasses.fields(cls):
        yield prefix + item.name
        child = node._get_node(item.name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from known_keys(child, f"{prefix}{item.name}.")


def _undeclared(node: DictConfig, prefix: str) -> Iterator[str]:
    cls = OmegaConf.get_type(node)
    declared = {item.name for item in dataclasses.fields(cls)} if isinstance(cls, type) and dataclasses.is_dataclass(cls) else None
    for key in list(node.keys()):
        if declared is not None and key not in declared:
            yield f"{prefix}{key}"
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _undeclared(child, f"{prefix}{key}.")


def nearest(word: str, known: Sequence[str]) -> str:
    """'; did you mean X?' for the nearest of `known`, looked for in its section, or else by whole names, then by last parts; never a section that it is in."""
    known = [name for name in known if name != word and not word.startswith(f"{name}.")]
    section = word.rpartition(".")[0]
    beside = {name.removeprefix(f"{section}."): name for name in known if section and name.startswith(f"{section}.")}
    last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    for names, sought in [(beside or {name: name for name in known}, word.removeprefix(f"{section}.") if beside else word), (last, word.rsplit(".", 1)[-1])]:
        if close := difflib.get_close_matches(sought, list(names), n=1, cutoff=0.6):
            return f"; did you mean {names[close[0]]!r}?"
    listed = list(beside.values()) or known
    return f" (known: {', '.join(sorted(listed)[:12])}, ...)" if listed else ""


def check_values(config: Any) -> None:
    """Refuse values and combinations that cannot work.

    Raises:
        ConfigError: names the key, the value given and what would be right.
    """
    train, optim = config.train, config.optim
    for key, value, least in [
        ("train.max_steps", train.max_steps, 1),
        ("train.stop_at", train.stop_at, 0),
        ("train.global_batch_size", train.global_batch_size, 1),
        ("train.micro_batch_size", train.micro_batch_size, 1),
        ("train.max_bad_steps", train.max_bad_steps, 0),
        ("optim.lr", optim.lr, 0),
        ("optim.weight_decay", optim.weight_decay, 0),
        ("optim.eps", optim.eps, 0),
        ("optim.momentum", optim.momentum, 0),
        ("optim.max_norm", optim.max_norm, 0),
        ("optim.warmup_steps", optim.warmup_steps, 0),
        ("eval.every", config.eval.every, 0),
        ("eval.batch_size", config.eval.batch_size, 1),
        ("checkpoint.keep", config.checkpoint.keep, 1),
        ("loader.prefetch", config.loader.prefetch, 1),
        ("loader.workers", config.loader.workers, 1),
        ("log.every", config.log.every, 1),
        ("run.max_restarts", config.run.max_restarts, 0),
        ("run.min_ranks", config.run.min_ranks, 1),
        ("run.stall_timeout", config.run.stall_timeout, 0),
        ("launcher.nproc_per_node", config.launcher.nproc_per_node, 1),
        ("posttrain.max_quality_loss", config.posttrain.max_quality_loss, 0),
        ("posttrain.latency_pairs", config.posttrain.latency_pairs, 0),
        ("posttrain.evaluation_samples", config.posttrain.evaluation_samples, 1),
    ]:
        if value is not None and not value >= least:
            raise ConfigError(f"{key}={value}: must be at least {least}")
        if value == math.inf and key != "optim.max_norm":  # which then clips nothing
            raise ConfigError(f"{key}={value}: must be a finite number")
    if not 0 <= train.seed < 2**63:  # it is hashed wherever it is used; these are the seeds that any tool that reads a config can hold
        raise ConfigError(f"train.seed={train.seed}: must be from 0 to {2**63 - 1}")
    try:
        interval(config.checkpoint.every)
    except ValueError:
        raise ConfigError(
            f"checkpoint.every={config.checkpoint.every}: must be a number of steps (0: save only at the end) or a time with its unit, e.g. 90s, 10m, 2h"
        ) from None
    if train.stop_at is not None and train.stop_at > train.max_steps:
        raise ConfigError(f"train.stop_at={train.stop_at}: is beyond train.max_steps={train.max_steps}; the run ends there anyway")
    for key, value in [("optim.decay_fraction", optim.decay_fraction), ("optim.final_ratio", optim.final_ratio)]:
        if not 0 <= value <= 1:
            raise ConfigError(f"{key}={value}: must be between 0 and 1")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise ConfigError(f"optim.betas={list(optim.betas)}: must be two numbers, each at least 0 and below 1, e.g. [0.9,0.95]")
    if optim.momentum and optim.name.name != "sgd":
        raise ConfigError(f"optim.momentum={optim.momentum}: has no effect with optim.name={optim.name.name}; use optim.name=sgd, or optim.betas")
    from trainer.callbacks.profile import check_profile_steps

    check_profile_steps(config.profile.steps, train.max_steps)
    for key in ("explain_samples", "explain_background", "explain_tokens", "explain_regions"):
        if getattr(config.posttrain, key) < 1:
            raise ConfigError(f"posttrain.{key}={getattr(config.posttrain, key)}: must be at least 1")
    if config.posttrain.evidence_samples < 0:
        raise ConfigError(f"posttrain.evidence_samples={config.posttrain.evidence_samples}: must be 0 (no evidence) or more")
    if config.posttrain.latency_pairs == 1:
        raise ConfigError("posttrain.latency_pairs=1: has no 90th percentile; give at least 2, or 0 for no latency")
    for part in (
        config.model,
        config.data,
        config.launcher,
        *([config.strategy] if config.strategy else []),
        *config.export.values(),
        *([config.assess] if config.assess else []),
    ):
        part.validate()
    for group, parts in (("compress", config.compress), ("explain", config.explain)):
        for name, part in parts.items():
            with called(group, name):
                part.validate()
    if config.wandb.enabled and find_spec("wandb") is None:
        raise missing_extra("wandb", "wandb", "wandb.enabled=true")
    world_size = config.launcher.world_size(config)
    check_world_size(config, world_size)
    if config.run.min_ranks is not None:
        if config.run.min_ranks > world_size:
            raise ConfigError(f"run.min_ranks={config.run.min_ranks}: is more than the {world_size} processes; give at most {world_size}, or start more")
        config.launcher.check_min_ranks(config)
    if config.strategy is not None and config.strategy.elementwise_only and optim.name.name == "adafactor":
        raise ConfigError(
            f"optim.name=adafactor: is not elementwise, and strategy={config.strategy.name} cuts its state without regard to tensors; "
            "use optim.name=adamw, or strategy=ddp"
        )


def check_world_size(config: Any, world_size: int) -> None:
    """Refuse a number of processes that the batch or the strategy cannot be divided over.

    Raises:
        ConfigError: names the numbers and what would be right.
    """
    check_batch(config.train.global_batch_size, config.train.micro_batch_size, world_size)
    if config.strategy is not None:
        config.strategy.check(config, world_size)


def largest_world_size(config: Any, most: int) -> int | None:
    """The largest number of processes from `run.min_ranks` to `most` that `config` can run on; None where there is none."""
    for world_size in range(most, config.run.min_ranks - 1, -1):
        try:
            check_world_size(config, world_size)
        except ConfigError:
            continue
        return world_size
    return None


def check_batch(global_batch_size: int, micro_batch_size: int | None, world_size: int) -> None:
    """Refuse a world size that does not divide the batch, with the nearest that do.

    Raises:
        ConfigError: names both numbers and the nearest sizes that fit.
    """
    if global_batch_size < world_size:
        raise ConfigError(
            f"train.global_batch_size={global_batch_size}: is smaller than the {world_size} processes; "
            f"give at least {world_size}, or run on at most {global_batch_size}"
        )
    if global_batch_size % world_size:
        batches = [world_size * (global_batch_size // world_size), world_size * (global_batch_size // world_size + 1)]
        divisors = [n for n in range(1, global_batch_size + 1) if global_batch_size % n == 0]
        worlds = sorted(divisors, key=lambda n: abs(n - world_size))[:2]
        raise ConfigError(
            f"train.global_batch_size={global_batch_size}: cannot be divided over {world_size} processes; "
            f"nearest batch sizes that can: {batches[0]}, {batches[1]}; nearest process counts: {', '.join(map(str, sorted(worlds)))}"
        )
    share = global_batch_size // world_size
    if micro_batch_size is not None and share % micro_batch_size:
        fits = [n for n in range(1, share + 1) if share % n == 0]
        near = sorted(sorted(fits, key=lambda n: abs(n - micro_batch_size))[:2])
        raise ConfigError(
            f"train.micro_batch_size={micro_batch_size}: does not divide the {share} samples that each of {world_size} processes "
            f"takes of train.global_batch_size={global_batch_size}; nearest that do: {', '.join(map(str, near))}"
        )
