"""Hugging Face Accelerate, for people who have its config file.

What the file (or the environment that `accelerate launch` sets) asks for is done, or refused with
what would be right: Accelerate itself can fall back to something else without a word.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import ConfigError, missing_extra
from trainer.strategies.ddp import DDP

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trainer.config import Config
    from trainer.materialise import Blueprint
    from trainer.strategies.engine import Engine

ON_CPU, ON_GPU = "MULTI_CPU", "MULTI_GPU"
OURS_TO_LAUNCH = {
    *("machine_rank", "main_process_ip", "main_process_port", "main_training_function", "rdzv_backend", "same_network", "debug"),
    *("compute_environment", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "commands", "command_file"),
}
"""Keys about starting processes, which the launcher does, and those that `accelerate config` writes for TPUs always."""
READ = {"distributed_type", "num_processes", "num_machines", "mixed_precision", "use_cpu", "fsdp_config", "deepspeed_config"}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "gpu_ids": ("all",),
    "downcast_bf16": ("no",),
    "dynamo_config": ({"dynamo_backend": "NO"},),
    "gradient_accumulation_steps": (1,),
}
"""Values that ask for nothing, beside null, false and an empty section."""
INSTEAD = {
    "gpu_ids": "choose GPUs with CUDA_VISIBLE_DEVICES",
    "dynamo_config": "compile with train.compile=true",
    "enable_cpu_affinity": "pin processes with numactl or taskset",
    "gradient_accumulation_steps": "train.micro_batch_size gives accumulation",
}
ENVIRONMENT = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM"}
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
"""`Accelerator` reads it, with a config file too, and its `backward` then divides by it."""


@dataclass(kw_only=True)
class Accelerate(DDP):
    """Accelerate's own `prepare`, `no_sync`, `backward` and `clip_grad_norm_` around PyTorch's DDP."""

    name: ClassVar[str] = "accelerate"

    config_file: str | None = None
    """A file that `accelerate config` wrote; null: plain DDP on the processes and devices there are."""

    def validate(self) -> None:
        super().validate()
        if importlib.util.find_spec("accelerate") is None:
            raise missing_extra("accelerate", "accelerate", "strategy=accelerate")

    def check(self, config: Config, world_size: int) -> None:
        check_asked(self.asked(), f"strategy.config_file={self.config_file}" if self.config_file else "accelerate launch", config, world_size)
        check_accumulation(os.environ)

    def asked(self) -> dict[str, Any]:
        """What the file asks for, or else the environment."""
        return read_file(self.config_file) if self.config_file else from_environment(os.environ)

    def setup(self, blueprint: Blueprint, config: Config, mesh: DeviceMesh) -> Engine:
        from trainer.optim import make_optimizer, param_groups
        from trainer.strategies.accelerate_engine import AccelerateEngine, make_accelerator
        from trainer.strategies.engine import transform_blocks

        accelerator = make_accelerator(config, blueprint.device, mesh.size(), self.asked())
        blueprint.fill(blueprint.module)
        transform_blocks(blueprint, config)
        groups = param_groups(blueprint.model, blueprint.module, config.optim.weight_decay)
        return AccelerateEngine(blueprint.module, make_optimizer(config.optim, groups), config, blueprint.device, mesh, self, accelerator)


def read_file(path: str) -> dict[str, Any]:
    """The keys of an `accelerate` config file (YAML, of which JSON is a part).

    Raises:
        ConfigError: it is not there, not readable, or not such a file.
    """
    import yaml

    key = f"strategy.config_file={path}"
    try:
        asked = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{key}: cannot be read ({error.strerror}); give the path of a file that `accelerate config` wrote, or null") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(asked, dict) or "distributed_type" not in asked:
        raise ConfigError(f"{key}: has no distributed_type; give a file that `accelerate config` wrote")
    return asked


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What `accelerate launch` asks for in the environment, as its file would."""
    asked: dict[str, Any] = {}
    for variable, kind in ENVIRONMENT.items():
        if environ.get(variable, "false").lower() in ("true", "1"):
            asked["distributed_type"] = kind
    if "ACCELERATE_MIXED_PRECISION" in environ:
        asked["mixed_precision"] = environ["ACCELERATE_MIXED_PRECISION"]
    if "ACCELERATE_DYNAMO_BACKEND" in environ:
        asked["dynamo_config"] = {"dynamo_backend": environ["ACCELERATE_DYNAMO_BACKEND"].upper()}
    if environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true":
        asked["parallelism_config"] = "as in the environment"
    return asked


def check_asked(asked: Mapping[str, Any], source: str, config: Config, world_size: int) -> None:
    """Refuse what Accelerate would not do here as asked.

    Raises:
        ConfigError: names the key, its value and what would be right.
    """
    for key, value in asked.items():
        if key in READ or key in OURS_TO_LAUNCH or not value or value in NEUTRAL.get(key, ()):
            continue
        raise ConfigError(f"{source}: {key}: {value} is not supported by strategy=accelerate; {INSTEAD.get(key, 'leave it out')}")
    kind = str(asked.get("distributed_type", ""))
    if kind == "FSDP":
        raise ConfigError(f"{source}: distributed_type: FSDP is not done through Accelerate here; {fsdp_instead(asked)}")
    if kind == "DEEPSPEED":
        raise ConfigError(f"{source}: distributed_type: DEEPSPEED is not done through Accelerate here; {deepspeed_instead(asked)}")
    if kind not in ("", "NO", ON_CPU, ON_GPU):
        raise ConfigError(f"{source}: distributed_type: {kind} is not supported; use NO, {ON_CPU} or {ON_GPU}")
    if kind == "NO" and world_size > 1:
        raise ConfigError(f"{source}: distributed_type: NO is for 1 process, and there are {world_size}; use {ON_CPU} or {ON_GPU}")
    processes = asked.get("num_processes")
    if processes is not None and int(processes) != world_size:
        raise ConfigError(
            f"{source}: num_processes: {processes}, and there are {world_size}; set launcher.nproc_per_node (times launcher.nnodes), or change the file"
        )
    check_device(kind, bool(asked.get("use_cpu")), source, config.train.device.name)
    precision, mixed = config.train.precision.name, str(asked.get("mixed_precision") or "no")
    if "mixed_precision" in asked and mixed != ("bf16" if precision == "bf16" else "no"):
        right = f"set train.precision={'bf16' if mixed == 'bf16' else 'fp32'}" if mixed in ("bf16", "no") else "use no or bf16"
        raise ConfigError(f"{source}: mixed_precision: {mixed} contradicts train.precision={precision}; {right}")


def check_accumulation(environ: Mapping[str, str]) -> None:
    """Refuse accumulation by Accelerate: the scale of a loss is the mean over all micro-batches already."""
    steps = environ.get(ACCUMULATION, "1")
    if steps != "1":
        raise ConfigError(f"{ACCUMULATION}={steps}: is not supported by strategy=accelerate; unset it: train.micro_batch_size gives accumulation")


def check_device(kind: str, use_cpu: bool, source: str, device: str) -> None:
    """Refuse a distributed type for another `device` ("cpu", "cuda"; "auto" is not known yet) than the run's."""
    if device == "cpu" and kind == ON_GPU:
        raise ConfigError(f"{source}: distributed_type: {ON_GPU}, and the run is on the CPU; use {ON_CPU} with use_cpu: true, or train.device=cuda")
    if device == "cuda" and (kind == ON_CPU or use_cpu):
        raise ConfigError(f"{source}: {'use_cpu: true' if use_cpu else f'distributed_type: {ON_CPU}'}, and the run is on CUDA; set train.device=cpu")


def fsdp_instead(asked: Mapping[str, Any]) -> str:
    """The overrides that do what an `fsdp_config` asks for."""
    options: Mapping[str, Any] = asked.get("fsdp_config") or {}
    words = ["strategy=fsdp"]
    if str(options.get("fsdp_reshard_after_forward", "true")).lower() in ("false", "shard_grad_op"):
        words.append("strategy.reshard_after_forward=false")
    if str(options.get("fsdp_offload_params", "false")).lower() == "true":
        words.append("strategy.cpu_offload=true")
    if str(options.get("fsdp_activation_checkpointing", "false")).lower() == "true":
        words.append("train.activation_checkpointing=true")
    return _use(words, asked)


def deepspeed_instead(asked: Mapping[str, Any]) -> str:
    """The overrides that do what a `deepspeed_config` asks for."""
    options: Mapping[str, Any] = asked.get("deepspeed_config") or {}
    stage = str(options.get("zero_stage", "2"))
    words = [f"strategy=zero{stage}" if stage in ("1", "2", "3") else "strategy=ddp"]
    if options.get("offload_optimizer_device", "none") == "cpu" and stage in ("1", "2", "3"):
        words.append("strategy.cpu_offload=true")
    clip = options.get("gradient_clipping")
    if clip is not None and clip != "auto":
        words.append(f"optim.max_norm={clip}")
    return _use(words, asked)


def _use(words: list[str], asked: Mapping[str, Any]) -> str:
    if asked.get("mixed_precision") == "bf16":
        words.append("train.precision=bf16")
    return f"use {' '.join(words)}"
