"""Runs the workers on this machine: in this process, or as child processes that it watches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import EXIT_RESUMABLE, EXIT_USAGE, ConfigError, RunError, Stopped
from trainer.launchers.base import Launcher

if TYPE_CHECKING:
    from trainer.config import Config

GRACE_SECONDS = 5.0  # the others have this long to say why they fail too, before they are ended


@dataclass(kw_only=True)
class Local(Launcher):
    """Processes of this machine; several machines with `nnodes`, started once on each.

    Under torchrun (which sets RANK and WORLD_SIZE) each process is one rank, and these knobs are torchrun's.
    """

    nnodes: int = 1
    """Machines that take part."""
    node_rank: int = 0
    """Which of them this is; 0 is the one at `master_addr`."""
    master_addr: str = "127.0.0.1"
    """Address of machine 0, as the others reach it."""
    master_port: int | None = None
    """Port on machine 0; null: a free one (one machine only)."""
    interface: str | None = None
    """Network interface for gloo and NCCL; null: theirs to choose."""

    def validate(self) -> None:
        if self.nnodes < 1:
            raise ConfigError(f"launcher.nnodes={self.nnodes}: must be at least 1")
        if not 0 <= self.node_rank < self.nnodes:
            raise ConfigError(f"launcher.node_rank={self.node_rank}: must be from 0 to {self.nnodes - 1} (launcher.nnodes={self.nnodes})")
        if self.nnodes > 1 and self.master_port is None:
            raise ConfigError("launcher.master_port: several machines need the same port on all, e.g. launcher.master_port=29500")
        if self.nnodes > 1 and self.master_addr in ("127.0.0.1", "localhost") and self.node_rank > 0:
            raise ConfigError(f"launcher.master_addr={self.master_addr}: machine {self.node_rank} needs the address of machine 0")

    def per_node(self) -> list[str]:
        return ["node_rank", "interface"]

    def world_size(self, config: Config) -> int:
        if "WORLD_SIZE" in os.environ:
            return int(os.environ["WORLD_SIZE"])
        return self.nnodes * self.processes(config)

    def processes(self, config: Config) -> int:
        """Processes on this machine."""
        if self.nproc_per_node is not None:
            return self.nproc_per_node
        gpus = count_gpus() if config.train.device.name != "cpu" else 0
        several = config.strategy is not None and config.strategy.name != "single"
        return gpus or (2 if several else 1)

    def launch(self, config: Config) -> None:
        from trainer.distributed import Place

        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun, or another launcher, made this process one rank
            from trainer.launchers.ranks import failure_recorded
            from trainer.worker import run

            place = Place.from_env()
            with failure_recorded(place.rank):
                run(config, place)
            return
        nproc = self.processes(config)
        if nproc * self.nnodes == 1 and config.run.max_restarts == 0:
            from trainer.worker import run

            run(config, Place())
            return
        for restarts in range(config.run.max_restarts + 1):
            try:
                Workers(self, config, nproc).run()
                return
            except RunError as error:
                if restarts == config.run.max_restarts:
                    raise
                print(f"{error}\nrestart {restarts + 1} of {config.run.max_restarts} from the last checkpoint", file=sys.stderr)


def count_gpus() -> int:
    """GPUs of this machine. PyTorch is asked (and imported) only where the system shows any."""
    if not (Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()):
        return 0
    import torch

    return torch.cuda.device_count()


class Workers:
    """The child processes of one attempt, from start to end."""

    def __init__(self, knobs: Local, config: Config, nproc: int):
        self.knobs, self.config, self.nproc = knobs, config, nproc
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Start all, wait for all; when one fails, end the others and say which and why."""
        from trainer.config import save

        with tempfile.TemporaryDirectory(prefix="trainer-") as directory:
            files = Path(directory)
            save(self.config, files / "config.yaml")
            forwarded: list[int] = []
            old = {number: signal.signal(number, lambda n, _: self._forward(n, forwarded)) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                self._start(files)
                self._wait(files)
            finally:
                for process in self.processes:
                    if process.poll() is None:
                        process.kill()
                for process in self.processes:
                    process.wait()
                for number, handler in old.items():
                    signal.signal(number, handler)

    def _start(self, files: Path) -> None:
        knobs = self.knobs
        listener = None
        if knobs.node_rank == 0:
            listener = _listen("127.0.0.1" if knobs.nnodes == 1 else "", knobs.master_port)
        port = listener.getsockname()[1] if listener else knobs.master_port
        for local_rank in range(self.nproc):
            rank = knobs.node_rank * self.nproc + local_rank
            env = dict(os.environ)
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(knobs.nnodes * self.nproc),
                "LOCAL_WORLD_SIZE": str(self.nproc),
                "MASTER_ADDR": knobs.master_addr,
                "MASTER_PORT": str(port),
                "TORCHELASTIC_ERROR_FILE": str(files / f"rank-{rank}.json"),
            }
            env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.nproc)))
            if knobs.interface is not None:
                env |= {"GLOO_SOCKET_IFNAME": knobs.interface, "NCCL_SOCKET_IFNAME": knobs.interface}
            fds: tuple[int, ...] = ()
            if rank == 0 and listener is not None:
                fds = (listener.fileno(),)
                env["TRAINER_LISTEN_FD"] = str(fds[0])
            command = [sys.executable, "-m", "trainer.worker", str(files / "config.yaml")]
            # Its own session: Ctrl-C reaches the workers through `_forward`, once each.
            self.processes.append(subprocess.Popen(command, env=env, pass_fds=fds, start_new_session=True))
        if listener is not None:
            listener.close()

    def _forward(self, number: int, forwarded: list[int]) -> None:
        forwarded.append(number)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _wait(self, files: Path) -> None:
        first_failure: float | None = None
        while any(process.poll() is None for process in self.processes):
            failed = [p for p in self.processes if p.poll() not in (None, 0, EXIT_RESUMABLE)]
            if failed and first_failure is None:
                first_failure = time.monotonic()
            if first_failure is not None and time.monotonic() - first_failure > GRACE_SECONDS:
                for process in self.processes:
                    process.terminate() if time.monotonic() - first_failure < 2 * GRACE_SECONDS else process.kill()
            time.sleep(0.02)
        self._judge(files)

    def _judge(self, files: Path) -> None:
        """Raise what the ranks' ends mean together; the culprit is the first that failed by itself."""
        from trainer.launchers.ranks import read_failure

        statuses = {self.knobs.node_rank * self.nproc + i: process.returncode for i, process in enumerate(self.processes)}
        failed = {rank: status for rank, status in statuses.items() if status not in (0, EXIT_RESUMABLE)}
        records = {rank: read_failure(files / f"rank-{rank}.json") for rank in statuses}
        if not failed:
            stopped = [rank for rank, status in statuses.items() if status == EXIT_RESUMABLE]
            if stopped:
                record = records[stopped[0]]
                raise Stopped(record["message"]["message"] if record else "")
            return
        killed = [rank for rank in failed if records[rank] is None]
        told = sorted((rank for rank in failed if records[rank] is not None), key=lambda rank: (not records[rank]["expected"], records[rank]["time"]))  # type: ignore[index]
        expected = [rank for rank in told if records[rank]["expected"]]  # type: ignore[index]
        if expected:
            record = records[expected[0]]
            assert record is not None
            if failed[expected[0]] == EXIT_USAGE:
                raise ConfigError(record["message"]["message"])
            raise RunError(record["message"]["message"])
        if killed:
            rank = killed[0]
            raise RunError(f"rank {rank} {_how(failed[rank])} without a word; the other ranks were ended")
        record = records[told[0]]
        assert record is not None
        raise RunError(f"rank {told[0]} failed: {record['message']['message']}\n\n{record['message']['extraInfo']['py_callstack']}")


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory? the kernel's log says)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _listen(address: str, port: int | None) -> socket.socket:
    """A listening socket for rank 0's store, bound here so that nobody can take the port in between."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port or 0))
    except OSError as error:
        listener.close()
        raise ConfigError(f"launcher.master_port={port}: cannot be listened on ({error.strerror}); choose another, or leave it out to take a free one") from error
    listener.listen(1024)
    listener.set_inheritable(True)
    return listener
