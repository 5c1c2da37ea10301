"""The config tree is the object graph: dataclasses that Hydra composes and OmegaConf checks.

A YAML whose `_target_` names a part (`trainer.part.Part`) is checked against that dataclass while
Hydra composes, so that an unknown key or a wrong type is an error with its full name, and a part
of somebody's own package needs no registration: one Python file and one YAML.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.assess.base import Assess
from trainer.compress.base import Compressor
from trainer.data.base import Data
from trainer.errors import ConfigError
from trainer.explain.base import Method
from trainer.export.base import Exporter
from trainer.launchers.base import Launcher
from trainer.models.base import Model
from trainer.part import Part
from trainer.sections import (
    CheckpointConfig,
    EvalConfig,
    LoaderConfig,
    LogConfig,
    OptimConfig,
    PosttrainConfig,
    ProfileConfig,
    RunConfig,
    TrainConfig,
    WandbConfig,
)
from trainer.strategies.base import Strategy
from trainer.writing import write_whole

TARGET = "_target_"
AFTER_TRAINING = ("compress", "export", "explain", "assess")  # what is done with a finished run


@dataclass
class Config:
    """A run."""

    run_dir: str | None = None
    """Where the run is kept. Null: runs/NAME-HASH, the hash of this config: the same on all nodes."""
    strategy: Strategy | None = None
    """Null: ddp with several processes, single with one."""
    model: Model = MISSING
    data: Data = MISSING
    launcher: Launcher = MISSING
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    compress: dict[str, Compressor] = field(default_factory=dict)
    """Compression after training, in order."""
    export: dict[str, Exporter] = field(default_factory=dict)
    """Runtimes that the trained, or compressed, model is written for."""
    explain: dict[str, Method] = field(default_factory=dict)
    """Explanations of what the trained, or compressed, model decides, with the evidence for each."""
    assess: Assess | None = None
    """The trained classifier judged as a decision on applicants. Null: it is not."""
    posttrain: PosttrainConfig = field(default_factory=PosttrainConfig)


def training_alone(config: Config) -> Config:
    """`config` without what is done after training."""
    return dataclasses.replace(config, **{group: getattr(Config(), group) for group in AFTER_TRAINING})


def goes_on(config: Config) -> bool:
    """Whether anything is to be done after training."""
    return any(getattr(config, group) for group in AFTER_TRAINING)


def config_dir() -> Path:
    """Where the YAML presets are (in a checkout a link to configs/ at the top)."""
    return Path(__file__).resolve().parent / "configs"


def part_class(target: str) -> type:
    """The dataclass that `_target_: package.module.Class` names.

    Raises:
        ConfigError: it cannot be imported, or is neither a part nor a config of this package.
    """
    module_name, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target}: cannot be imported ({error}). Is its package installed, or on PYTHONPATH?") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, (Part, Config))):
        raise ConfigError(f"_target_={target}: is not a part; a part is a dataclass derived from trainer.part.Part")
    return cls


def with_schema(node: DictConfig) -> DictConfig:
    """`node` checked against the dataclass that its `_target_` names, if it has one."""
    if not isinstance(node, DictConfig) or TARGET not in node:
        return node
    cls = part_class(str(node[TARGET]))
    values = OmegaConf.masked_copy(node, [str(key) for key in node if key != TARGET])
    return OmegaConf.merge(OmegaConf.structured(cls), values)  # type: ignore[return-value]


def declared_keys(node: DictConfig) -> list[str]:
    """Keys of the dataclass that the `_target_` of `node` names."""
    from trainer.validate import known_keys

    return list(known_keys(OmegaConf.structured(part_class(str(node[TARGET])))))


def to_plain(config: Any) -> dict[str, Any]:
    """`config` (a dataclass tree) as plain values; every part is recorded with its `_target_`."""
    plain: dict[str, Any] = {}
    if isinstance(config, Part):
        plain[TARGET] = f"{type(config).__module__}.{type(config).__qualname__}"
    for item in dataclasses.fields(config):
        plain[item.name] = _plain_value(getattr(config, item.name))
    return plain


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    return value


def from_plain(plain: dict[str, Any]) -> Config:
    """The inverse of `to_plain`: objects again, every key, type and value checked."""
    return to_config(_typed(plain))


def recorded(plain: dict[str, Any]) -> Config:
    """What a finished run, of any number of processes, says of itself: every key and type is checked, but not whether it could be run here and now."""
    return OmegaConf.to_object(_typed(plain))  # type: ignore[return-value]


def _typed(plain: dict[str, Any]) -> DictConfig:
    schema: Any = OmegaConf.structured(Config)
    for key, value in plain.items():
        value = with_schemas(OmegaConf.create({"value": value}).value)
        OmegaConf.update(schema, key, value, merge=not isinstance(value, DictConfig) or OmegaConf.get_type(value) is dict)
    return schema


def part_from_plain(plain: dict[str, Any]) -> Any:
    """One part of what `to_plain` gave, as an object again, every key and type checked."""
    node = OmegaConf.create(plain)
    assert isinstance(node, DictConfig)
    return OmegaConf.to_object(with_schemas(node))


def with_schemas(node: Any) -> Any:
    """`node` with every part in it checked against its dataclass, and itself."""
    if isinstance(node, DictConfig):
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                node[key] = with_schemas(child)
        return with_schema(node)
    return node


def to_config(node: DictConfig) -> Config:
    """The objects of a composed config, validated; `run_dir` is filled in.

    Raises:
        ConfigError: an unknown key, an impossible value or combination.
    """
    from trainer.validate import check_keys, check_values

    check_keys(node)
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    if config.strategy is None:
        config.strategy = default_strategy(config)
    check_values(config)
    if config.run_dir is None:
        config.run_dir = str(Path("runs") / default_name(config))
    return config


def default_strategy(config: Config) -> Strategy:
    """What no strategy means: ddp with several processes, else single."""
    from trainer.strategies.ddp import DDP
    from trainer.strategies.single import Single

    return DDP() if config.launcher.world_size(config) > 1 else Single()


def default_name(config: Config) -> str:
    """A name for the run: what it trains, how, and a hash of the config: the same on every node."""
    plain = to_plain(config)
    for other in ("run_dir", "log", "wandb", *AFTER_TRAINING, "posttrain"):  # as they differ from node to node, or come after training
        plain.pop(other)
    for per_node in config.launcher.per_node():
        plain["launcher"].pop(per_node)
    assert config.strategy is not None
    return f"{type(config.model).__name__.lower()}-{config.strategy.name}-{digest(plain)}"


def digest(plain: dict[str, Any]) -> str:
    """8 characters that stand for these values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def save(config: Config, path: Path) -> None:
    """Write `config` as YAML, whole or not at all."""
    write_whole(path, OmegaConf.to_yaml(OmegaConf.create({TARGET: f"{Config.__module__}.{Config.__qualname__}", **to_plain(config)})))


def load(path: Path) -> Config:
    """Read a config that `save` wrote."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    plain.pop(TARGET, None)
    return from_plain(plain)
