"""Many slow streams at once: how late their tokens are.

Each token tells the time.monotonic() at which it was made; the clock is one for all processes
of a machine, so the client knows how long the token took to reach it.
"""

from __future__ import annotations

import re
import select
import socket
import time
from array import array
from contextlib import ExitStack

from .apps.work import PERIOD
from .client import WrongResponse, connect, request, status_and_headers

__all__ = ["Ticks"]

SPACING = 0.00105
"""Seconds between two connects: some 1,000 streams then tick evenly within the period."""

SETTLE_SECONDS = 0.5
TOKEN = re.compile(rb"data: (\d+) (\d+\.\d+)\n\n")


class _Stream:
    """What is known of one stream. next: the number of its next token."""

    __slots__ = ("next", "rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""
        self.next = -1

    def read(self, data: bytes) -> list[float]:
        """When each token in `data` was made. Raises WrongResponse."""
        data = self.rest + data
        if self.next < 0:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return []
            status, _ = status_and_headers(head)
            if status != "200 OK":
                raise WrongResponse(f"the status is {status}")
            self.next = 0
        made, at = [], 0
        for token in TOKEN.finditer(data):
            if int(token[1]) != self.next:
                raise WrongResponse(f"token {int(token[1])} instead of {self.next}")
            self.next += 1
            made.append(float(token[2]))
            at = token.end()
        self.rest = data[at:]
        return made


class Ticks:
    """Open streams of `path`. lateness: of each token since the last run() began, in seconds."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._open = ExitStack()
        self._epoll = self._open.enter_context(select.epoll())
        self._streams: dict[int, _Stream] = {}
        self.lateness = array("d")
        start = time.monotonic()
        for number in range(count):
            sock = self._open.enter_context(connect(port))
            sock.sendall(request(path, port))
            self._streams[sock.fileno()] = _Stream(sock)
            self._epoll.register(sock, select.EPOLLIN)
            self.run(start + (number + 1) * SPACING - time.monotonic())
        self.run(SETTLE_SECONDS)
        if any(stream.next < 1 for stream in self._streams.values()):
            raise WrongResponse("a stream has not begun")

    def run(self, seconds: float) -> float:
        """Read what comes for so long; the part of a core that it takes. Raises WrongResponse."""
        self.lateness = array("d")
        begun, busy = time.monotonic(), time.process_time()
        left = seconds
        while left > 0:
            received = []
            # what came is looked at when all of it has been taken: that would make others late
            for descriptor, _ in self._epoll.poll(min(left, PERIOD)):
                stream = self._streams[descriptor]
                data = stream.sock.recv(65536)
                received.append((stream, data, time.monotonic()))
            for stream, data, now in received:
                if not data:
                    raise WrongResponse("a stream ended")
                for moment in stream.read(data):
                    self.lateness.append(now - moment)
            left = begun + seconds - time.monotonic()
        return (time.process_time() - busy) / max(seconds, PERIOD)

    def close(self) -> None:
        self._open.close()
