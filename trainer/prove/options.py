"""`prove.*` on the command line. They are this command's own: no run's config has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer import own_options
from trainer.errors import ConfigError


@dataclass
class ProveOptions:
    """What is proved."""

    strategies: list[str] | None = None
    """Names of config group `strategy`; null: all."""
    ranks: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Numbers of processes."""
    steps: int = 10
    """Optimizer steps, and the length of the learning rate schedule."""
    global_batch_size: int = 8
    """In place of `train.global_batch_size`."""
    micro_batch_size: int = 1
    """In place of `train.micro_batch_size`."""
    sgd_lr: float | None = None
    """Rate of the plain SGD witness; null: steps of about 0.3 % of the parameters' norm."""
    resume: bool = False
    """Also save in the middle of each run, and go on from there in a new process state."""
    timeout: float = 300.0
    """Seconds after which a cell has failed."""


def split(arguments: Sequence[str]) -> tuple[ProveOptions, list[str]]:
    """The options among `arguments`, and the rest.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    options, rest = own_options.split(arguments, "prove", ProveOptions, bare=("resume",))
    _check(options)
    return options, rest


def _check(options: ProveOptions) -> None:
    for key in ("steps", "global_batch_size", "micro_batch_size"):
        if getattr(options, key) < 1:
            raise ConfigError(f"prove.{key}={getattr(options, key)}: must be at least 1")
    if options.resume and options.steps < 2:
        raise ConfigError(f"prove.steps={options.steps}: prove.resume=true saves after half of them, so must be at least 2")
    if options.timeout <= 0:
        raise ConfigError(f"prove.timeout={options.timeout:g}: must be more than 0")
    if options.sgd_lr is not None and options.sgd_lr <= 0:
        raise ConfigError(f"prove.sgd_lr={options.sgd_lr:g}: must be more than 0")
    if not options.ranks or min(options.ranks) < 1:
        raise ConfigError(f"prove.ranks={options.ranks}: give numbers of processes, such as [1,2,4]")
    if options.strategies == []:
        raise ConfigError("prove.strategies=[]: give names of strategies, such as [ddp,fsdp]; left out, all are proved")
    if options.global_batch_size % options.micro_batch_size or options.global_batch_size == 1:
        raise ConfigError(
            f"prove.global_batch_size={options.global_batch_size}: must be more than 1 and a multiple of prove.micro_batch_size={options.micro_batch_size}"
        )
