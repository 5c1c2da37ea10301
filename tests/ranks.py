"""Real gloo ranks for tests: `run(2, function, *args)` gives what `function` returns on each rank.

A server process, started once, imports torch and forks the ranks of each case, so that a case takes
about a second and the test process itself may use autograd (a process that has cannot fork ranks).
`function` is a module-level function of a test; it and its arguments are pickled by the test process.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STAY_SECONDS = 2.0
GRACE_SECONDS = 5.0  # after one rank has failed, the others have this long to fail too


class RankFailed(AssertionError):
    """A rank raised, died or hung; the message has every failed rank's traceback and output."""


def run(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    group: bool = True,
    preload: Sequence[str] = (),
) -> list[Any]:
    """`function(*args)` on `world_size` forked ranks, and what it returned on each.

    RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE are set, and `env`; with `group` there is a
    gloo process group. `preload` names slow modules that the ranks then need not
    import each. After `timeout` seconds all ranks are killed, and the error says where each was.

    Raises:
        RankFailed: some rank did not return.
    """
    request = (
        world_size,
        function.__module__,
        function.__qualname__,
        pickle.dumps(args),
        timeout,
        dict(env or {}),
        group,
        tuple(preload),
        sys.path,
        os.getcwd(),
    )
    channel = _server()
    _send(channel, pickle.dumps(request))
    outcomes = pickle.loads(_receive(channel))
    failures = [f"--- rank {rank}: {text}" for rank, (ok, text) in enumerate(outcomes) if not ok]
    if failures:
        raise RankFailed("\n".join(failures))
    return [pickle.loads(value) for _, value in outcomes]


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=env
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(timeout=30)

    atexit.register(end)
    return ours


def _send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(struct.pack("!Q", len(data)) + data)


def _receive(channel: socket.socket) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = channel.recv(min(1 << 20, size - len(data)))
            if not part:
                raise EOFError("the other end is gone")
            data += part
        return data

    return exactly(struct.unpack("!Q", exactly(8))[0])


def serve(channel: socket.socket) -> None:
    """Answer requests until the test process is gone."""
    import torch
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    while True:
        try:
            request = pickle.loads(_receive(channel))
        except EOFError:
            return
        with tempfile.TemporaryDirectory(prefix="ranks-") as directory:
            _send(channel, pickle.dumps(_run_case(Path(directory), *request)))


def _run_case(
    directory: Path,
    world_size: int,
    module: str,
    name: str,
    args: bytes,
    timeout: float,
    env: dict[str, str],
    group: bool,
    preload: Sequence[str],
    path: list[str],
    cwd: str,
) -> list[tuple[bool, Any]]:
    """Per rank (True, pickled result) or (False, what went wrong)."""
    sys.path[:] = path
    for slow in preload:
        importlib.import_module(slow)
    pids: dict[int, int] = {}
    pipes: dict[int, int] = {}
    for rank in range(world_size):
        read, write = os.pipe()
        pids[rank] = os.fork()
        if pids[rank] == 0:
            signal.alarm(int(timeout + 2 * GRACE_SECONDS))  # also when the server is gone
            output = os.open(directory / f"{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(cwd)
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            os.environ.update({name: str(value) for name, value in places.items()} | env)
            _rank(directory, rank, world_size, module, name, args, group, write)
        os.close(write)
        pipes[rank] = read
    collected = dict.fromkeys(pipes, b"")
    open_ranks = {pipe: rank for rank, pipe in pipes.items()}
    deadline, failed = time.monotonic() + timeout, False
    while open_ranks and time.monotonic() < deadline:
        for pipe in select.select(list(open_ranks), [], [], 0.1)[0]:
            data = os.read(pipe, 1 << 20)
            collected[open_ranks[pipe]] += data
            if not data:
                rank = open_ranks.pop(pipe)
                if not failed and not collected[rank].startswith(b"+"):
                    failed, deadline = True, min(deadline, time.monotonic() + GRACE_SECONDS)
    hung = set(open_ranks.values())
    for rank in hung:
        os.kill(pids[rank], signal.SIGUSR1)
    time.sleep(0.5 if hung else 0.0)
    outcomes: list[tuple[bool, Any]] = []
    for rank, pid in pids.items():
        if rank in hung or collected[rank].startswith(b"+"):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(pipes[rank])
        data = collected[rank]
        output = (directory / f"{rank}.out").read_text(errors="replace")
        if rank in hung:
            outcomes.append((False, f"did not end within {timeout} s, or not after another rank had failed; its output and stacks:\n{output}"))
        elif data.startswith(b"+"):
            outcomes.append((True, data[1:]))
        else:
            outcomes.append((False, f"{data[1:].decode() or f'died with wait status {status}'}\n{output}"))
    return outcomes


def _rank(directory: Path, rank: int, world_size: int, module: str, name: str, args: bytes, group: bool, write: int) -> None:
    """Run the case in the forked child, write the result and end the process."""
    faulthandler.register(signal.SIGUSR1)
    faulthandler.enable()  # to this rank's output: a segmentation fault then has a place
    try:
        import torch.distributed as dist

        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        if group:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
            dist.init_process_group("gloo", store=dist.FileStore(str(directory / "store"), world_size), rank=rank, world_size=world_size)
        answer = b"+" + pickle.dumps(function(*pickle.loads(args)))
    except BaseException:
        answer = b"-" + traceback.format_exc().encode()
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(answer)
    if answer.startswith(b"+"):  # killed when all have answered: a rank that leaves at once breaks the groups that others still connect
        time.sleep(STAY_SECONDS)
    os._exit(0)  # no teardown: a rank that failed must not wait for the others


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
