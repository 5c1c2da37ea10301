"""`prove.*` on the command line. They are this command's own: no run's config has them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

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
    values: dict[str, Any] = {}
    rest = []
    for argument in arguments:
        match = re.match(r"^\+{0,2}(?:prove\.|(?=resume=))([^=]*)=(.*)$", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
        else:
            values[match[1]] = match[2]
    return _options(values), rest


def _options(texts: dict[str, str]) -> ProveOptions:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [item.name for item in fields(ProveOptions)]
    node = OmegaConf.structured(ProveOptions)
    for key, text in texts.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"unknown key 'prove.{key}'" + (f"; did you mean 'prove.{close[0]}'?" if close else f" (known: {', '.join(known)})"))
        try:
            override = OverridesParser.create().parse_override(f"{key}={text}")
            if override.is_sweep_override():
                raise ConfigError(f"prove.{key}={text}: one value, please; a list is written [a,b]")
            OmegaConf.update(node, key, override.value(), merge=False)
        except (OverrideParseException, OmegaConfBaseException) as error:
            raise ConfigError(f"prove.{key}={text}: {str(error).splitlines()[0]}") from error
    options = OmegaConf.to_object(node)
    assert isinstance(options, ProveOptions)
    _check(options)
    return options


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
