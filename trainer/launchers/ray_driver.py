"""Starts or joins a Ray cluster, trains in it with Ray Train, and says how that ended."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import launch_id
from trainer.errors import ConfigError, Interrupted, Stopped, run_again
from trainer.launchers.base import count_gpus
from trainer.launchers.link import Exchange
from trainer.launchers.ranks import INTERRUPTED, RankDied, judge
from trainer.launchers.ray_guard import guarded
from trainer.launchers.restarts import with_restarts
from trainer.signals import kept

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.launchers.ray import Ray

GRACE_SECONDS = 5.0  # the other ranks have this long to say why they fail too, before they are ended
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.05
ROOM_SECONDS = 30.0  # Ray takes about 15 to notice that a machine has gone
OBJECT_STORE_BYTES = 100_000_000  # the run passes nothing through it
SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths are the user's
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # output goes over the launcher's own line
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late Ray notices that a run is done
}
# For a Ray that is started here: neither idle workers, which Ray Train never takes, nor a watch for machines that go.
# It has no dashboard: Ray Train asks that for its actors' state all the same, and would wait 12 s for it at the end of a run.
OWN_RAY = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",  # the discard port: refused at once
}


def drive(knobs: Ray, config: Config, work: str) -> None:
    """Run `work` (see `Launcher.launch`) for `config` in Ray to the end.

    Raises:
        ConfigError, RunError, Stopped: as of the local launcher.
    """
    cluster = knobs.cluster()
    for name, value in (SETTINGS | ({} if cluster else OWN_RAY)).items():
        os.environ.setdefault(name, value)
    if cluster is not None and cluster != "auto":
        _check_answers(cluster)
    nproc = knobs.processes(config)
    workers = knobs.nnodes * nproc
    on_gpus = config.train.device.name == "cuda" or (config.train.device.name == "auto" and count_gpus() > 0)
    threads = 1.0 if cluster else float(max(1, (os.cpu_count() or 1) // workers))
    resources = {"CPU": threads, **({"GPU": 1.0} if on_gpus else {}), **knobs.resources_per_worker}
    with _connected(cluster, resources, workers) as host, kept([]) as asked:
        _tell_of_lack(resources, workers)
        launch = launch_id.new()  # for every start of the workers
        again = run_again(str(config.run_dir), config.checkpoint.resume)

        def run_ranks(ranks: int) -> None:
            exchange = Exchange(host)
            try:
                error = _supervise(exchange, lambda: _fit(config, work, exchange, launch, resources, ranks), asked, again)
            finally:
                exchange.close()
            judge(exchange.failures, exchange.died)
            if error is not None:
                raise RankDied(f"Ray Train failed: {error}")

        try:
            with_restarts(config, workers, run_ranks, lambda ranks: _room(resources, ranks), asked)
        except KeyboardInterrupt:
            raise Interrupted(INTERRUPTED) from None


def _room(resources: dict[str, float], ranks: int) -> int:
    """For how many of `ranks` the cluster has room: Ray reserves it for all of them, which shows that their machines are there, or says what is free."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([resources] * ranks)
    try:
        if group.wait(ROOM_SECONDS):
            return ranks
    finally:
        remove_placement_group(group)
    free = ray.available_resources()
    return min(ranks, *(int(free.get(name, 0) // amount) for name, amount in resources.items()))


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"launcher.address={address}: no Ray cluster answers there ({error}); `ray status` shows a running one, and without an address one is started here"
        ) from error


@contextmanager
def _connected(cluster: str | None, resources: dict[str, float], workers: int) -> Iterator[str]:
    """A connection to Ray; yields this machine's address in it. A Ray that was started here ends with it."""
    import ray
    from ray.exceptions import AuthenticationError

    ahead = threading.Thread(target=importlib.import_module, args=("torch",), daemon=True)  # Ray Train needs it; meanwhile Ray starts
    ahead.start()
    with ExitStack() as stack:
        if cluster is None:
            started = stack.enter_context(guarded())
            stack.callback(ray.shutdown)
            ray.init(
                address="local",
                num_cpus=int(max(os.cpu_count() or 1, workers * resources["CPU"])),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            started()
        else:
            stack.callback(ray.shutdown)
            try:
                ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, AuthenticationError) as error:  # the second: another version of Ray or Python there
                raise ConfigError(f"launcher.address={cluster}: cannot be joined: {error}") from error
        ahead.join()
        yield ray.util.get_node_ip_address()


def _supervise(exchange: Exchange, fit: Callable[[], None], asked: Sequence[int], again: str) -> Exception | None:
    """Run `fit` in a thread (Ray would take Ctrl-C for itself in the main one); signals go to the ranks. `again` is what to do to go on.

    Returns what Ray says of a failure.
    """
    result: list[Exception] = []

    def work() -> None:
        try:
            fit()
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    failed_at: float | None = None
    passed_on = 0
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if asked and not exchange.met:
            raise Stopped(f"before training began; {again} to go on")
        for number in asked[passed_on:]:  # not in the handler, which may interrupt what holds the exchange's lock
            passed_on += 1
            exchange.ask(number)
        if exchange.failed:
            failed_at = failed_at or time.monotonic()
            if time.monotonic() - failed_at > GRACE_SECONDS:
                exchange.end()
    return result[0] if result else None


def _tell_of_lack(resources: dict[str, float], workers: int) -> None:
    """Ray waits for room without a word."""
    import ray

    every, free = ray.cluster_resources(), ray.available_resources()
    lacking = [
        f"{workers} workers take {workers * amount:g} {name}, of {every.get(name, 0):g} in the cluster {free.get(name, 0):g} are free"
        for name, amount in resources.items()
        if free.get(name, 0) < workers * amount
    ]
    if lacking:
        print(f"waiting for room in the Ray cluster: {'; '.join(lacking)}", file=sys.stderr)


def _fit(config: Config, work: str, exchange: Exchange, launch: str, resources: dict[str, float], workers: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from trainer.config import to_plain

    on_gpus = "GPU" in resources
    assert config.run_dir is not None
    storage = Path(config.run_dir).resolve() / ".ray"
    arguments = {
        "config": to_plain(config),
        "work": work,
        "launch": launch,
        "launcher": asdict(exchange.address),
        "directory": os.getcwd(),
        "terminal": sys.stderr.isatty() and sys.stdout.isatty(),
        "columns": shutil.get_terminal_size().columns,
        "path": [str(Path(__file__).parents[2]), os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))],
    }
    try:
        TorchTrainer(
            _train_function(),
            train_loop_config=arguments,
            torch_config=TorchConfig(backend="cuda:nccl,cpu:gloo" if on_gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus, resources_per_worker=resources),
            run_config=RunConfig(name=exchange.address.token, storage_path=str(storage), failure_config=FailureConfig(max_failures=0)),
        ).fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _train_function() -> Callable[[dict[str, Any]], None]:
    """A function that needs nothing of this package before it has put it on the worker's path."""

    def train(arguments: dict[str, Any]) -> None:
        import sys

        sys.path[:0] = [entry for entry in arguments["path"] if entry not in sys.path]
        from trainer.launchers.ray_worker import run_rank

        run_rank(arguments)

    return train
