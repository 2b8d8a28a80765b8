"""Many slow streams at once, and how late their tokens are.

Each token holds the time.monotonic() at which it was made. All processes of a machine share this
clock, so the client knows how long the token took to arrive.
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
"""Seconds between two connects, so that the tokens of 1,000 streams spread over the period."""

SETTLE_SECONDS = 0.5
TOKEN = re.compile(rb"data: (\d+) (\d+\.\d+)\n\n")


class _Stream:
    """The client's state of one stream. next: the number of its next token."""

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
    """Open streams of `path`. lateness: seconds, of each token since the last run() began."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._request = request(path, port)
        self._open = ExitStack()
        self._epoll = self._open.enter_context(select.epoll())
        self._streams: dict[int, _Stream] = {}
        self.lateness = array("d")

    def open(self, more: int) -> None:
        """Open so many more streams. Raises WrongResponse if one of them does not begin."""
        start = time.monotonic()
        for number in range(more):
            sock = self._open.enter_context(connect(self._port))
            sock.sendall(self._request)
            self._streams[sock.fileno()] = _Stream(sock)
            self._epoll.register(sock, select.EPOLLIN)
            self.run(start + (number + 1) * SPACING - time.monotonic())
        self.run(SETTLE_SECONDS)
        if any(stream.next < 1 for stream in self._streams.values()):
            raise WrongResponse("a stream has not begun")

    def run(self, seconds: float) -> float:
        """Read for so long; the part of a core that the client took. Raises WrongResponse."""
        self.lateness = array("d")
        begun, busy = time.monotonic(), time.process_time()
        left = seconds
        while left > 0:
            received = []
            # Receive everything first: parsing in between would make the other tokens late.
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
