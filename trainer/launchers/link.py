"""The line between a launcher and ranks that it cannot hold by a process id: JSON lines over TCP.

Ranks send what they print and why they fail; the launcher sends requests to stop. When the line
breaks, each side knows that the other has gone. Nothing that is received is executed or unpickled,
and only who knows the run's token is listened to.
"""

from __future__ import annotations

import hmac
import io
import json
import os
import secrets
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

from trainer.errors import EXIT_FAILED, RunError
from trainer.launchers.ranks import Failure, prefixed

CONNECT_SECONDS = 20.0


@dataclass(frozen=True)
class Address:
    """Where a launcher listens, and the word that lets a rank in."""

    host: str
    port: int
    token: str


class Exchange:
    """The launcher's end: one line to each rank."""

    def __init__(self, host: str):
        self._server = socket.create_server((host, 0), backlog=1024)
        self.address = Address(host, self._server.getsockname()[1], secrets.token_hex(16))
        self._lock = threading.Lock()
        self._lines: dict[int, socket.socket] = {}
        self.met = False
        """Whether any rank has called."""
        self._asked: list[int] = []
        self.failures: dict[int, Failure] = {}
        self.died: dict[int, str] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def failed(self) -> bool:
        """Whether some rank has explained why the run has failed, so that the others wait for it in vain."""
        return any(failure.conclusive for failure in self.failures.values())

    def ask(self, number: int) -> None:
        """Pass signal `number` on to all ranks, also to those that call later."""
        with self._lock:
            self._asked.append(number)
            for line in self._lines.values():
                _send(line, {"stop": number})

    def end(self) -> None:
        """End the ranks that still run, at once."""
        with self._lock:
            for line in self._lines.values():
                _send(line, {"end": True})

    def close(self) -> None:
        self._server.close()
        with self._lock:
            for line in self._lines.values():
                line.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("r", encoding="utf-8") as reader:
            try:
                hello = json.loads(reader.readline())
                if not hmac.compare_digest(str(hello.get("token")), self.address.token):
                    return
            except (OSError, ValueError, AttributeError):  # a stranger
                return
            self._meet(line, hello)
            rank = hello["rank"]
            try:
                for text in reader:
                    message = json.loads(text)
                    if message.get("bye"):
                        with self._lock:
                            self._lines.pop(rank, None)
                        return
                    self._take(rank, message)
            except (OSError, ValueError):  # broken in the middle of a line: the same as its end
                pass
            self._lose(rank, hello)

    def _meet(self, line: socket.socket, hello: dict[str, Any]) -> None:
        with self._lock:
            self.met = True
            self._lines[hello["rank"]] = line
            for number in self._asked:
                _send(line, {"stop": number})

    def _take(self, rank: int, message: dict[str, Any]) -> None:
        if "failure" in message:
            with self._lock:
                self.failures.setdefault(rank, Failure.from_json(message["failure"]))
            return
        for stream, target in (("out", sys.stdout), ("err", sys.stderr)):
            if stream in message:
                target.write(message[stream] if rank == 0 else prefixed(rank, message[stream]))
                target.flush()

    def _lose(self, rank: int, hello: dict[str, Any]) -> None:
        with self._lock:
            if rank in self.failures:
                return
            self._lines.pop(rank, None)
            if not any(failure.original for failure in self.failures.values()):  # else it was ended for that
                self.died[rank] = f"ended without a word (process {hello['pid']} on {hello['host']}; killed, or out of memory? the kernel's log there says)"


class Line:
    """A rank's end. When the launcher goes away, the rank's process ends at once."""

    def __init__(self, address: Address, rank: int, asked: list[int]):
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
        except OSError as error:
            raise RunError(
                f"rank {rank} on {socket.gethostname()} cannot reach the launcher at {address.host}:{address.port} ({error}); "
                "machines of one run must reach one another"
            ) from error
        self._socket.settimeout(None)
        self._lock = threading.Lock()
        self._closed = False
        self.send(token=address.token, rank=rank, pid=os.getpid(), host=socket.gethostname())
        self._reader = self._socket.makefile("r", encoding="utf-8")
        threading.Thread(target=self._listen, args=(asked,), daemon=True).start()

    def send(self, **message: Any) -> None:
        with self._lock:
            _send(self._socket, message)

    def close(self) -> None:
        self._closed = True
        self.send(bye=True)
        self._socket.close()

    def _listen(self, asked: list[int]) -> None:
        try:
            for text in self._reader:
                message = json.loads(text)
                if "stop" in message:
                    asked.append(message["stop"])
                elif message.get("end"):
                    break
        except (OSError, ValueError):  # closed, here or there
            pass
        if not self._closed:
            os._exit(EXIT_FAILED)


class Stream(io.TextIOBase):
    """A text stream whose lines go over a `Line`; a terminal if the launcher's is one."""

    def __init__(self, line: Line, name: str, terminal: bool):
        self._line, self._name, self._terminal, self._text = line, name, terminal, ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        whole, end, rest = (self._text + text).rpartition("\n")
        self._text = rest
        if end:
            self._line.send(**{self._name: whole + end})
        return len(text)

    def flush(self) -> None:
        text, self._text = self._text, ""
        if text:
            self._line.send(**{self._name: text})


def _send(line: socket.socket, message: dict[str, Any]) -> None:
    try:
        line.sendall(json.dumps(message).encode() + b"\n")
    except OSError:  # the other side has gone: who reads the line sees its end
        return
