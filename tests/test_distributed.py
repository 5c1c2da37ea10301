"""The process group, and the device."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import ranks
from tests.commands import free_port
from trainer import distributed
from trainer.distributed import Place, pick_device
from trainer.errors import ConfigError, RunError, Stopped
from trainer.rendezvous import ARRIVED, reach


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


def test_one_process_and_several() -> None:
    assert ranks.run(1, connect, group=False) == [(1, 1)]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
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


def meets(asking: int | None, missing: int | None, seconds: float) -> str:
    """How the wait ends where rank `asking` is asked to stop after a second and rank `missing` does not come."""
    place = Place.from_env()
    if place.rank == missing:
        return "did not come"
    asked: list[int] = []
    if place.rank == asking:
        threading.Timer(1.0, asked.append, [15]).start()
    try:
        distributed.init(place, torch.device("cpu"), asked, timeout=timedelta(seconds=seconds))
    except (RunError, Stopped) as error:
        return f"{type(error).__name__}: {error}"
    return f"met {dist.get_world_size()}"


@pytest.mark.parametrize("asking", [0, 1])
def test_who_is_asked_to_stop_while_waiting_for_others_stops_and_so_do_all(asking: int) -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told = ranks.run(3, meets, asking, 2, 30.0, group=False, env=env)
    assert told == ["Stopped: before training began"] * 2 + ["did not come"]


def rush() -> str:
    """How the wait ends where the ranks come at about the time when each is asked to stop."""
    place, asked = Place.from_env(), []
    threading.Timer(0.05, asked.append, [15]).start()
    try:
        distributed.init(place, torch.device("cpu"), asked, timeout=timedelta(seconds=30))
    except Stopped as error:
        return f"Stopped: {error}"
    return "met"


def test_all_go_on_or_none_does() -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    assert len(set(ranks.run(3, rush, group=False, env=env))) == 1


def test_it_is_said_who_did_not_come() -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told = ranks.run(3, meets, None, 2, 1.0, group=False, env=env)
    assert "RunError: could not reach the other processes: of 3 ranks, these did not come within 1 s: 2" in told


def test_nothing_listens() -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    (_, told) = ranks.run(2, meets, None, 0, 1.0, group=False, env=env)
    assert re.fullmatch(rf"RunError: could not reach the other processes at 127.0.0.1:{env['MASTER_PORT']} \(.*Connection refused, for 1 s\)", told)


@pytest.mark.parametrize(
    ("asking", "seconds", "end"),
    [(1, 30.0, "Stopped: before training began"), (None, 1.0, "RunError: could not reach the other processes: rank 0 has not answered for 1 s")],
)
def test_what_listens_does_not_answer(asking: int | None, seconds: float, end: str) -> None:
    """Rank 0 has gone at once, and the launcher's socket is still there."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(silent.getsockname()[1])}
        assert ranks.run(2, meets, asking, 0, seconds, group=False, env=env, timeout=20) == ["did not come", end]


def starts_again(hold: float, stop_after: float | None) -> str:
    """How a second start's wait ends for this rank, where rank 0 of the first, whose store still listens, ends after `hold` seconds."""
    place, asked = Place.from_env(), []
    first = os.fork()
    if first == 0:
        distributed.init(place, torch.device("cpu"), timeout=timedelta(seconds=30))
        time.sleep(hold if place.rank == 0 else 0.2)
        os._exit(0)
    os.waitpid(first, 0)
    if stop_after is not None:
        threading.Timer(stop_after, asked.append, [15]).start()
    try:
        distributed.init(place, torch.device("cpu"), asked, timeout=timedelta(seconds=30))
    except Stopped as error:
        return f"Stopped: {error}"
    value = torch.tensor(1)
    dist.all_reduce(value)
    return f"met {int(value)}"


def test_the_store_of_an_earlier_start_is_not_taken_for_this_one_s() -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    assert ranks.run(2, starts_again, 2.0, None, group=False, env=env, timeout=20) == ["met 2"] * 2


def test_who_waits_for_an_earlier_start_to_end_is_asked_to_stop() -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told = ranks.run(2, starts_again, 2.0, 0.8, group=False, env=env, timeout=20)
    assert told == ["Stopped: before training began"] * 2


def dies_once_it_has_arrived() -> str:
    """How the wait ends where rank 1 has died, and comes again after the last of the others has arrived."""
    place = Place.from_env()

    def arrived(count: int) -> None:
        store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 3, is_master=False, wait_for_workers=False)
        while dist.PrefixStore("meeting", store).add(ARRIVED, 0) < count:
            time.sleep(0.01)

    if place.rank == 1:
        first = os.fork()
        if first == 0:
            distributed.init(place, torch.device("cpu"), timeout=timedelta(seconds=30))
            os._exit(0)
        reach("127.0.0.1", int(os.environ["MASTER_PORT"]), 30.0, [])
        arrived(2)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        Path("dead").touch()
        arrived(3)
    while place.rank == 2 and not Path("dead").exists():
        time.sleep(0.01)
    distributed.init(place, torch.device("cpu"), timeout=timedelta(seconds=30))
    value = torch.tensor(1)
    dist.all_reduce(value)
    return f"met {int(value)}"


def test_who_comes_in_the_place_of_a_rank_that_died_while_it_waited_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    assert ranks.run(3, dies_once_it_has_arrived, group=False, env=env, timeout=15) == ["met 3"] * 3
