"""A model of somebody's own package that makes one rank misbehave at one step, once."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.models.gpt import GPT

if TYPE_CHECKING:
    from torch import Tensor, nn

calls = 0
counted = 0


@dataclass(kw_only=True)
class Trouble(GPT):
    how: str = ""
    """kill: SIGKILL to itself; raise: an error without an explanation; config: an error with one; stop: SIGSTOP to itself;
    sleep: the loader (a thread) does not return; skip: leaves out the barrier that `barrier` asks for; leave: no more batches;
    crash: a segmentation fault; memory: takes more memory than there is; hang: does not return from the model."""
    barrier: bool = False
    """Have a barrier in each call, as hooks that log sometimes do."""
    at: int = 3
    """At this call of `loss` in its process."""
    on_rank: int = 1
    once: str | None = None
    """A file that remembers that it has happened."""
    seconds: float = 0.0
    """How long each call takes at least."""
    eval_seconds: float = 0.0
    """How long each batch of an evaluation takes at least."""
    evaluating: str | None = None
    """A file that is there once an evaluation has begun."""

    def identity(self) -> dict[str, Any]:
        own = {item.name for item in fields(self)} - {item.name for item in fields(GPT)}
        return {key: value for key, value in super().identity().items() if key not in own}

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        global calls
        calls += 1
        time.sleep(self.seconds)
        import torch.distributed as dist

        if self.how and calls == self.at and dist.get_rank() == self.on_rank and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            if self._misbehave():
                return super().loss(module, batch)
        if self.barrier:
            dist.barrier()
        return super().loss(module, batch)

    def metrics(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.evaluating:
            Path(self.evaluating).touch()
        time.sleep(self.eval_seconds)
        return super().metrics(module, batch)

    def _misbehave(self) -> bool:
        """Whether the barrier is to be left out."""
        match self.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "crash":
                ctypes.string_at(0)
            case "hang":
                time.sleep(1000)
            case "raise":
                raise ValueError("a mistake in the model")
            case "config":
                raise ConfigError("model.how=config: does not do")
            case "memory":
                import torch

                torch.empty(2**60)
            case "leave":
                from trainer.loader import Loader

                Loader._come = lambda self: False  # the loader of this process has no more
        return self.how == "skip"

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Called by the loader's thread for each micro-batch."""
        global counted
        counted += 1
        if self.how == "sleep" and counted == self.at and int(os.environ["RANK"]) == self.on_rank:
            time.sleep(1000)
        return super().count(batch)
