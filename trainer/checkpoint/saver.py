"""When checkpoints are written: beside training or while it waits, and what is said when one cannot be."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from trainer.checkpoint.directory import directory, list_whole, remove_old
from trainer.checkpoint.save import SaveFailed, write
from trainer.errors import ConfigError, RunError, run_again
from trainer.sections import CheckpointConfig
from trainer.state import Position
from trainer.strategies.engine import Engine
from trainer.units import interval

CLOSE_SECONDS = 30.0  # for a save that is under way when the run fails


class Saver:
    """Saves the state of `engine`: with `checkpoint.overlap` from a copy, in a thread, while training goes on.

    At most one save is under way. Every method but `due`, `poll` and `close` is a collective; every rank comes to the same `saved`.
    """

    def __init__(self, engine: Engine, run_dir: Path, knobs: CheckpointConfig, facts: Mapping[str, Any], saved: int, before: Callable[[int, Path], None]):
        self.saved = saved
        """The step of the newest checkpoint that is whole; -1: none."""
        self._engine, self._run_dir, self._keep, self._facts, self._before = engine, run_dir, knobs.keep, facts, before
        self._resume = knobs.resume
        self._copy = HostCopy(engine.device) if knobs.overlap else None
        # Its collectives run beside those of training: they need a group of their own, and no GPU.
        self._group: Any = dist.new_group(backend="gloo") if knobs.overlap else None
        self._under_way: tuple[Position, Future[Path]] | None = None
        _, self._seconds = interval(knobs.every)
        self._began = time.monotonic()
        self._leads = dist.get_rank() == 0
        self.kept_bytes = self.made_bytes = 0
        """Of this rank, in host memory, once an overlapping save has ended: the copy, and what each save makes of it anew while it is written."""

    def due(self) -> bool:
        """Whether so much time has gone by since the last save that `checkpoint.every` asks for one. Rank 0 alone says so."""
        return self._leads and self._seconds > 0 and time.monotonic() - self._began >= self._seconds

    def save(self, position: Position) -> None:
        """Save the state, which is that after step `position.step`. A failure is told, and training goes on."""
        self.wait()
        self._began = time.monotonic()
        self._before(position.step, directory(self._run_dir, position.step))
        self._init_state(position)
        future: Future[Path] = Future()
        if self._copy is None:
            self._write(self._engine.held(), position, future)
        else:
            copied = self._copy.take(self._engine.held())
            threading.Thread(target=self._write, args=(copied, position, future), name="save", daemon=True).start()
        self._under_way = position, future  # only now is there somebody to end it, for whom others may wait
        if self._copy is None:
            self.wait()

    def poll(self) -> None:
        """Tell how the save under way ended, if it has."""
        if self._under_way is not None and self._under_way[1].done():
            self.wait()

    def wait(self) -> None:
        """Return when no save is under way. A failure is told."""
        if self._under_way is None:
            return
        (position, future), self._under_way = self._under_way, None
        try:
            future.result()
            self.saved = position.step
        except SaveFailed as error:
            _warn(f"step {position.step}: {error}; training goes on, {self._newest()}, and the next save tries again")

    def finish(self, position: Position) -> None:
        """See that the state after the last step is saved.

        Raises:
            RunError: it cannot be.
        """
        self.wait()
        if self.saved == position.step:
            return
        self._before(position.step, directory(self._run_dir, position.step))
        try:
            self._init_state(position)
            write(self._engine.state_dict(), position, self._run_dir, self._facts, self._group)
        except SaveFailed as error:
            raise RunError(
                f"step {position.step}: {error}; this was the last save, and {self._newest()}. "
                f"Make room or make it writable, then {run_again(self._run_dir, self._resume)}: it goes on from there"
            ) from error
        self.saved = position.step
        self._remove_old()

    def close(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Let a save that is under way come to its end, whatever error ends the run; only a second interrupt does not wait.

        The group's connections are given back, unless a thread still holds them.
        """
        if kind is KeyboardInterrupt:
            return
        if self._under_way is not None:
            with suppress(Exception):  # an earlier error is being said
                self._under_way[1].result(timeout=CLOSE_SECONDS)
        if self._group is not None and (self._under_way is None or self._under_way[1].done()):
            dist.destroy_process_group(self._group)
            self._group = None

    def _init_state(self, position: Position) -> None:
        if position.updates == 0:
            self._engine.init_optimizer_state(0)  # no step has made it yet

    def _tell_memory(self, copied: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.kept_bytes = sum(_local(value).nbytes for value in copied.values())
        self.made_bytes = made_bytes(copied, state)
        if self._leads:
            made = f", and {self.made_bytes / 1e6:,.0f} MB while it is written" if self.made_bytes else ""
            tqdm.write(f"memory    checkpoint.overlap keeps a copy of the state: {self.kept_bytes / 1e6:,.0f} MB on each rank{made}", file=sys.stdout)

    def _write(self, held: dict[str, Tensor], position: Position, future: Future[Path]) -> None:
        try:
            if self._engine.device.type == "cuda":
                torch.cuda.set_device(self._engine.device)  # a thread begins on device 0, whatever its rank's is
            state = self._engine.state_of(held, self._group)
            if self._copy is not None and not self.kept_bytes:
                self._tell_memory(held, state)
            path = write(state, position, self._run_dir, self._facts, self._group)
            self._remove_old()
            future.set_result(path)
        except Exception as error:
            future.set_exception(error)

    def _remove_old(self) -> None:
        if dist.get_rank() == 0:
            try:
                remove_old(self._run_dir, self._keep)
            except (OSError, ConfigError, RunError) as error:
                _warn(f"old checkpoints in {self._run_dir} cannot be removed: {getattr(error, 'strerror', None) or error}")

    def _newest(self) -> str:
        whole = list_whole(self._run_dir)
        return f"the newest whole checkpoint is {whole[-1]}" if whole else "there is no whole checkpoint yet"


class HostCopy:
    """A copy of a state in host memory (pinned where there is a GPU), whose memory is used again for the next one."""

    def __init__(self, device: torch.device):
        self._device = device
        self._kept: dict[str, Tensor] = {}

    def take(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy `state`; the copy holds until the next call."""
        kept = self._kept
        self._kept = {name: self._like(value, kept.get(name)) for name, value in state.items()}
        for name, value in state.items():
            _local(self._kept[name]).copy_(_local(value), non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return dict(self._kept)

    def _like(self, value: Tensor, kept: Tensor | None) -> Tensor:
        if kept is not None and (kept.shape, kept.dtype) == (value.shape, value.dtype):
            return kept
        return torch.empty_like(value, device="cpu", pin_memory=self._device.type == "cuda", requires_grad=False)


def made_bytes(held: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int:
    """Memory of this rank that `state`, made of `held`, takes beside it: DeepSpeed's flat state is brought into shape."""
    places = {_local(value).untyped_storage().data_ptr() for value in held.values()}
    return sum(local.nbytes for local in map(_local, state.values()) if local.untyped_storage().data_ptr() not in places)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _warn(text: str) -> None:
    """On rank 0, past a progress bar."""
    if dist.get_rank() == 0:
        tqdm.write(f"warning: {text}", file=sys.stderr)
