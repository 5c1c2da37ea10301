"""The process group: made once by the worker, from whatever launched it, and always taken down."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer import launch_id
from trainer.errors import ConfigError, RunError
from trainer.rendezvous import meet, reach, stopped
from trainer.whereabouts import Phase, Whereabouts

T = TypeVar("T")
_groups_made = itertools.count()
LISTEN_FD = "TRAINER_LISTEN_FD"  # an already listening socket for rank 0's store: no port can be taken in between


@dataclass(frozen=True)
class Place:
    """Where this process stands, as its launcher set it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launch: str = ""
    """The same for every start of this rank by one command (see `trainer.launch_id`)."""

    @staticmethod
    def from_env() -> Place:
        """From the variables that torchrun and the local launcher set; one process without them."""
        get = os.environ.get
        return Place(int(get("RANK", "0")), int(get("WORLD_SIZE", "1")), int(get("LOCAL_RANK", "0")), launch_id.from_env())


def pick_device(wanted: str, local_rank: int) -> torch.device:
    """`wanted` is "auto", "cpu" or "cuda".

    Raises:
        ConfigError: CUDA was asked for and is absent, or has fewer GPUs than processes on this node.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no usable GPU was found"
        raise ConfigError(f"train.device=cuda: {why}; use train.device=auto or cpu, or install a CUDA build of PyTorch")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(f"launcher.nproc_per_node: process {local_rank + 1} has no GPU of its own; this node has {torch.cuda.device_count()}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def make_deterministic(wanted: bool) -> None:
    """Choose deterministic kernels (before CUDA is used), or leave PyTorch as it is."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS is not
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would write every new tensor twice


def init(place: Place, device: torch.device, asked: Sequence[int] = (), timeout: timedelta = timedelta(minutes=30), where: Whereabouts | None = None) -> None:
    """Make the default process group, unless there is one already (Ray makes its own). `where` is told while the ranks wait for one another.

    Raises:
        RunError: the port is in use, or not all processes came.
        Stopped: some rank's `asked` became non-empty while they waited for one another.
    """
    if dist.is_initialized():
        return
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    if place.world_size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "0"))
    if host in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
    fd, group = os.environ.pop(LISTEN_FD, None), next(_groups_made)

    def connect(seconds: float) -> dist.Store:
        if fd is not None or "TORCHELASTIC_RUN_ID" not in os.environ:
            if place.rank != 0:
                reach(host, port, seconds, asked)
            return dist.TCPStore(
                host, port, place.world_size, is_master=place.rank == 0, timeout=timeout, wait_for_workers=False, master_listen_fd=int(fd) if fd else None
            )
        # torchrun's store may outlive a process group: each restart, and each run of a sweep, needs keys of its own.
        # (On several machines the counts of restarts differ; there launch/torchrun.sh has torchrun make a new store.)
        restart = os.environ["TORCHELASTIC_RESTART_COUNT"] if os.environ.get("GROUP_WORLD_SIZE") == "1" else ""
        shared, _, _ = next(dist.rendezvous("env://", place.rank, place.world_size, timeout=timeout))
        return dist.PrefixStore(f"restart-{restart}/group-{group}", shared)

    try:
        with (where or Whereabouts()).during(Phase.MEETING):
            store = meet(connect, place.rank, place.world_size, timeout.total_seconds(), asked)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if asked:  # the store went with a rank that stopped first
            raise stopped() from error
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise RunError(f"launcher.master_port={port}: is in use on {socket.gethostname()}; choose another, or leave it out to take a free one") from error
        raise RunError(f"could not reach the other processes at {host}:{port} ({str(error).splitlines()[0]})") from error


def close() -> None:
    """Take the process group down (no error where there is none)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launches(place: Place) -> list[str]:
    """The different `launch` of all ranks' places, sorted. A collective."""
    every = [""] * dist.get_world_size()
    dist.all_gather_object(every, place.launch)
    return sorted({launch for launch in every if launch})


def from_rank_0(function: Callable[[], T]) -> T:
    """What `function` returns, or raises, on rank 0: on all ranks, of which no other calls it. A collective."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
