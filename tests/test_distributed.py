"""The process group, and the device."""

from __future__ import annotations

import os
import re
import socket

import pytest
import torch
import torch.distributed as dist

from tests import ranks
from trainer import distributed
from trainer.distributed import Place, pick_device
from trainer.errors import ConfigError, RunError


def test_a_place_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Place.from_env() == Place(0, 1, 0)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Place.from_env() == Place(5, 8, 1)


def devices() -> tuple[str, str, str]:
    try:
        asked = str(pick_device("cuda", 0))
    except ConfigError as error:
        asked = str(error)
    return str(pick_device("cpu", 0)), str(pick_device("auto", 0)), asked


def test_cuda_asked_for_and_absent() -> None:
    ((cpu, auto, cuda),) = ranks.run(1, devices, env={"CUDA_VISIBLE_DEVICES": ""}, group=False)
    assert (cpu, auto) == ("cpu", "cpu")
    assert re.fullmatch(r"train.device=cuda: .*; use train.device=auto or cpu, or install a CUDA build of PyTorch", cuda)


def connect() -> tuple[int, int]:
    distributed.init(Place.from_env(), torch.device("cpu"))
    distributed.init(Place.from_env(), torch.device("cpu"))  # there is one already: it is taken
    value = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(value)
    size = dist.get_world_size()
    distributed.close()
    distributed.close()
    assert not dist.is_initialized()
    return size, int(value)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_one_process_and_several() -> None:
    assert ranks.run(1, connect, group=False) == [(1, 1)]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    assert ranks.run(3, connect, group=False, env=env) == [(3, 6)] * 3


def connect_to_taken() -> str:
    try:
        distributed.init(Place(0, 2, 0), torch.device("cpu"))
    except RunError as error:
        return str(error)
    return "connected"


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (told,) = ranks.run(1, connect_to_taken, group=False, env={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    assert told == f"launcher.master_port={port}: is in use on {socket.gethostname()}; choose another, or leave it out to take a free one"


def deterministic() -> tuple[bool, bool]:
    distributed.make_deterministic(wanted=False)
    before = torch.are_deterministic_algorithms_enabled()
    distributed.make_deterministic(wanted=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory
    return before, torch.are_deterministic_algorithms_enabled()


def test_deterministic_kernels_where_asked_for() -> None:
    assert ranks.run(1, deterministic) == [(False, True)]
