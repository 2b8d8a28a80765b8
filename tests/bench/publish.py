"""The row `publish`: how fast a broker takes events, and the CPU time of each event.

One worker follows the log, since it has a subscriber; another worker would not. The publishers
are processes on the client's core. Events of a memory log stay in their process, so there the
publishers are greenlets of the worker. The CPU time is that of the publishers and the worker; that
of Redis is not counted.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from socket import socket

from .apps.publisher import EVENT
from .client import WrongResponse, connect, receive, request, status_and_headers
from .contenders import MEMORY
from .figures import CPU, Ask, Figure, Sample
from .server import ROOT, Server

__all__ = ["PUBLISH", "publish"]

MANY = 4
PUBLISH = (
    Figure("rate", "events a second", "", 1, 0),
    Figure("cpu_seconds_many", f"CPU with {MANY} publishers", CPU.unit, CPU.factor),
    Figure("rate_many", f"events a second with {MANY} publishers", "", 1, 0),
)
END = EVENT[-1:].encode()
"""A character that occurs once in each event and nowhere else in the stream."""


def publish(server: Server, ask: Ask) -> Sample:
    """One publisher, then several. The log keeps all these events, so none can be missed."""
    count = MANY * ask.amount(1000, 50)
    with closing(connect(server.port)) as subscriber:
        subscriber.sendall(request("/events", server.port, "Accept: text/event-stream\r\n"))
        receive(subscriber, 4096)
        cpu, rate = _measure(server, subscriber, 1, count)
        cpu_many, rate_many = _measure(server, subscriber, MANY, count)
    return {"cpu_seconds": cpu, "rate": rate, "cpu_seconds_many": cpu_many, "rate_many": rate_many}


def _measure(server: Server, subscriber: socket, number: int, count: int) -> tuple[float, float]:
    """CPU time of an event, and events a second, until the subscriber has all of them."""
    kind = _Greenlets if server.environ["BENCH_BROKER"] == MEMORY else _Processes
    with closing(kind(server, number)) as publishers:
        _await(subscriber, publishers.first_events)
        before, begun = server.settled_cpu_time(), time.monotonic()
        publishers.start(count // number)
        _await(subscriber, count)
        seconds = time.monotonic() - begun
        spent = publishers.finish() + server.settled_cpu_time() - before
    return spent / count, count / seconds


def _await(subscriber: socket, count: int) -> None:
    """Read `count` events. Raises WrongResponse if there are more."""
    while count > 0:
        count -= receive(subscriber, 65536).count(END)
    if count:
        raise WrongResponse(f"{-count} events too many")


class _Greenlets:
    """Publishers in the worker. Their CPU time is part of the server's."""

    first_events = 0

    def __init__(self, server: Server, number: int) -> None:
        self._path = f"/publishers/{number}"
        self._port = server.port
        self._sock = connect(server.port)

    def start(self, each: int) -> None:
        more = "Content-Length: 0\r\n"
        self._sock.sendall(request(f"{self._path}/{each}", self._port, more, method="POST"))

    def finish(self) -> float:
        status, _ = status_and_headers(receive(self._sock, 4096).partition(b"\r\n\r\n")[0])
        if not status.startswith("204"):
            raise WrongResponse(f"the status is {status}")
        return 0.0

    def close(self) -> None:
        self._sock.close()


class _Processes:
    """Publishers beside the worker. first_events: each process publishes one to open the log."""

    def __init__(self, server: Server, number: int) -> None:
        self.first_events = number
        self._processes = [
            subprocess.Popen(
                [str(server.python), "-m", "bench.apps.publisher"],
                cwd=ROOT,
                env=server.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(number)
        ]
        if self._answers() != ["ready"] * number:
            self.close()
            raise RuntimeError("a publisher did not start")

    def start(self, each: int) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{each}\n")
            process.stdin.flush()

    def finish(self) -> float:
        return sum(map(float, self._answers()))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def _answers(self) -> list[str]:
        """A line of each process."""
        return [process.stdout.readline().strip() for process in self._processes if process.stdout]
