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
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.data.base import Data
from trainer.errors import ConfigError
from trainer.launchers.base import Launcher
from trainer.models.base import Model
from trainer.part import Part
from trainer.strategies.base import Strategy

TARGET = "_target_"


class Precision(Enum):
    """Arithmetic of forward and backward; parameters and optimizer state are fp32 (fp64 for fp64)."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp64 = "fp64"


class Device(Enum):
    """`auto` takes CUDA where there is a GPU, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class OptimizerName(Enum):
    """Optimizers; `sgd` is plain unless `momentum` is set."""

    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"
    adafactor = "adafactor"


class ScheduleName(Enum):
    """Shapes of the learning rate after warm-up (see trainer/optim.py)."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"


@dataclass
class TrainConfig:
    """What is trained for how long. The batch is global, whatever the number of ranks."""

    max_steps: int = 200
    """Optimizer steps, and the length of the learning rate schedule."""
    stop_at: int | None = None
    """End after this step, resumable, without shortening the schedule."""
    global_batch_size: int = 32
    """Samples in one optimizer step over all ranks."""
    micro_batch_size: int | None = None
    """Samples in one forward pass on one rank; null: all of the rank's share at once."""
    seed: int = 0
    """Fixes initial values, data order and dropout."""
    precision: Precision = Precision.fp32
    device: Device = Device.auto
    activation_checkpointing: bool = False
    """Recompute each block's activations in backward instead of keeping them."""
    compile: bool = False
    """Compile each block with torch.compile."""
    deterministic: bool = True
    """On CUDA, only deterministic kernels. (The CPU's are.)"""


@dataclass
class OptimConfig:
    """The optimizer and its schedule."""

    name: OptimizerName = OptimizerName.adamw
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Applied to matrices only: norms, biases and embeddings do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.0
    """For sgd."""
    max_norm: float = 1.0
    """Clip the global gradient norm to this; 0: do not clip."""
    schedule: ScheduleName = ScheduleName.cosine
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    decay_fraction: float = 0.2
    """For wsd: the share of `train.max_steps` at the end in which the rate falls."""
    final_ratio: float = 0.1
    """The rate after the last step as a share of `optim.lr` (linear, cosine, wsd)."""


@dataclass
class EvalConfig:
    """Exact evaluation over the whole evaluation split."""

    every: int = 0
    """Evaluate after every this many steps; 0: only at the end."""
    batch_size: int = 32
    """Samples in one forward pass on one rank."""
    at_end: bool = True


@dataclass
class CheckpointConfig:
    """Checkpoints, each a directory that is whole once it has a manifest."""

    every: int = 0
    """Save after every this many steps; 0: only at the end."""
    keep: int = 2
    """How many of the newest checkpoints to keep."""
    resume: str = "auto"
    """auto: from the newest in `run_dir`; never: from the start; or the path of a checkpoint."""


@dataclass
class LoaderConfig:
    """Reading ahead, so that a step does not wait for data that could have been ready."""

    prefetch: int = 2
    """Steps of batches that are made ready ahead; small ones are made in groups, and then groups of steps."""
    workers: int = 1
    """Threads that make them."""


@dataclass
class RunConfig:
    """How the run is supervised."""

    max_restarts: int = 0
    """How often the workers are started again from the last checkpoint after one has died."""


@dataclass
class LogConfig:
    """What is shown and recorded."""

    every: int = 10
    """Steps between plain lines where there is no terminal."""
    progress: bool = True
    """A progress bar, or plain lines where there is no terminal."""


@dataclass
class WandbConfig:
    """Weights & Biases (needs the extra `wandb`)."""

    enabled: bool = False
    project: str = "trainer"
    name: str | None = None
    """Null: the name of the run directory."""


@dataclass
class ProfileConfig:
    """torch.profiler."""

    steps: list[int] = field(default_factory=list)
    """[first, last]: write a Chrome trace of these steps, both included, to `run_dir`/profile."""


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
    """The inverse of `to_plain`: objects again, every key and type checked."""
    schema: Any = OmegaConf.structured(Config)
    for key, value in plain.items():
        value = _with_schemas(OmegaConf.create({"value": value}).value)
        OmegaConf.update(schema, key, value, merge=not isinstance(value, DictConfig) or OmegaConf.get_type(value) is dict)
    return to_config(schema)


def _with_schemas(node: Any) -> Any:
    if isinstance(node, DictConfig):
        if TARGET in node:
            return with_schema(node)
        for key in node:
            child = node[key]
            if isinstance(child, DictConfig):
                node[key] = _with_schemas(child)
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
    for per_node in ("run_dir", "log", "wandb"):
        plain.pop(per_node)
    for per_node in config.launcher.per_node():
        plain["launcher"].pop(per_node)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    assert config.strategy is not None
    return f"{type(config.model).__name__.lower()}-{config.strategy.name}-{digest}"


def save(config: Config, path: Path) -> None:
    """Write `config` as YAML, whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(OmegaConf.to_yaml(OmegaConf.create(to_plain(config))), encoding="utf-8")
    os.replace(partial, path)


def load(path: Path) -> Config:
    """Read a config that `save` wrote."""
    return from_plain(OmegaConf.to_container(OmegaConf.load(path)))  # type: ignore[arg-type]
