"""Many subscribers that all receive the same events, many times a second.

An event ends with a byte that occurs nowhere else in the stream. So events are counted by
counting bytes, wherever a read cuts them: the client has only a few microseconds for each event.
A sample of the subscribers is checked in full: the number of each event, and how late it came.
An event holds the time.monotonic() at which it was published.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack, closing

from .apps import work
from .client import TIMEOUT, WrongResponse, connect, request

__all__ = ["Subscribers"]

END = b"~"
EVENT = re.compile(rb"(\d+) (\d+\.\d+)~")
CHECKED = 100
WINDOW = 50
"""Subscribers that connect at the same time. A larger wave would make the server grow by more than
the subscribers need later, and the ones that come next would use that memory."""

NUDGE_SECONDS = 0.2
"""An event is published after this much silence: some servers send nothing before the first."""

QUIET_SECONDS = 0.1
SOURCE_PORTS = 20_000
"""Connections from one source address. Linux uses about 28,000 ports of an address."""

NO_PORT_YET = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: a closed connection does not keep its port for a minute (TIME_WAIT)."""


class _Publisher:
    """A connection that publishes one event at a time. number: the number of the next event."""

    def __init__(self, port: int, epoll: select.epoll) -> None:
        self.number = 0
        self.waiting = False
        self._port = port
        self._epoll = epoll
        self._connect()
        self._head = (
            f"POST /publish HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: text/plain\r\nContent-Length: "
        ).encode()

    def _connect(self) -> None:
        self.sock = connect(self._port)
        self._epoll.register(self.sock, select.EPOLLIN)

    def publish(self) -> None:
        event = b"%d %.6f~" % (self.number, time.monotonic())
        self.sock.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(event), event))
        self.number += 1
        self.waiting = True

    def read(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            if self.waiting:
                raise WrongResponse("the publisher's connection was closed")
            self.close()  # Node closes a connection that is idle for 5 s
            self._connect()
        if data.startswith(b"HTTP/"):
            if not data.startswith(b"HTTP/1.1 2"):
                raise WrongResponse(f"the publisher's response is {data[:40]!r}")
            self.waiting = False

    def close(self) -> None:
        self.sock.close()


class Subscribers:
    """Streams of `path`, and a publisher for them.

    lateness: seconds, of the events since the last run() began, at the checked subscribers.
    Every method raises WrongResponse if a subscriber misses an event or receives one twice.
    """

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._request = request(path, port, "Accept: text/event-stream\r\n")
        self._open = ExitStack()
        self._epoll = self._open.enter_context(select.epoll())
        self._publisher = self._open.enter_context(closing(_Publisher(port, self._epoll)))
        # by descriptor: the events that a stream has received, if it has begun
        self._events: dict[int, int] = {}
        # by descriptor of a checked stream: the number of its next event, an incomplete event
        self._checked: dict[int, tuple[int, bytes]] = {}
        self._count = self._received = 0
        self.lateness = array("d")

    def open(self, more: int) -> None:
        """Open so many more streams, then publish one event to all."""
        step = max(1, more // CHECKED)
        for number in range(more):
            sock = self._open.enter_context(self._connect())
            if number % step == 0:
                self._checked[sock.fileno()] = -1, b""
            if number % WINDOW == WINDOW - 1:
                self._begin()
        self._begin()
        while self._read(QUIET_SECONDS):
            pass
        self.publish()

    def _connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.setsockopt(socket.IPPROTO_IP, NO_PORT_YET, 1)
        sock.bind((f"127.0.0.{1 + self._count // SOURCE_PORTS}", 0))
        sock.connect(("127.0.0.1", self._port))
        sock.sendall(self._request)
        self._epoll.register(sock, select.EPOLLIN)
        self._count += 1
        return sock

    def _begin(self) -> None:
        give_up = time.monotonic() + TIMEOUT
        while len(self._events) < self._count:
            if not self._read(NUDGE_SECONDS) and not self._publisher.waiting:
                self._publisher.publish()
            if time.monotonic() > give_up:
                raise WrongResponse(f"{self._count - len(self._events)} streams have not begun")

    def publish(self) -> float:
        """Publish one event; the seconds until every subscriber has it."""
        before, begun = self._events.copy(), time.monotonic()
        self._await(lambda: not self._publisher.waiting)
        self._publisher.publish()
        return self._finish(before, 1) - begun

    def run(self, seconds: float) -> tuple[float, int]:
        """Publish for so long; the part of a core that the client took, and how many events."""
        self.lateness = array("d")
        before, first = self._events.copy(), self._publisher.number
        begun, busy = time.monotonic(), time.process_time()
        due = now = begun
        while now < begun + seconds:
            if now >= due and not self._publisher.waiting:
                self._publisher.publish()
                due = max(due + work.PERIOD, now)
            self._read(due - now if due > now else work.PERIOD)
            now = time.monotonic()
        events = self._publisher.number - first
        ended = self._finish(before, events)
        return (time.process_time() - busy) / (ended - begun), events

    def close(self) -> None:
        self._open.close()

    def _finish(self, before: dict[int, int], events: int) -> float:
        """Read until each has `events` more than `before`; the time when the last one came."""
        due = sum(before.values()) + events * self._count
        self._await(lambda: self._received >= due)
        ended = time.monotonic()
        self._await(lambda: not self._publisher.waiting)
        if any(count - before[each] != events for each, count in self._events.items()):
            raise WrongResponse("some subscribers have more events than others")
        return ended

    def _await(self, done: Callable[[], bool]) -> None:
        while not done():
            if not self._read(TIMEOUT):
                raise WrongResponse(f"events are missing, and nothing came for {TIMEOUT:g} s")

    def _read(self, timeout: float) -> int:
        """Read what arrives within `timeout` seconds; the number of descriptors that had data."""
        ready = self._epoll.poll(timeout)
        events, checked, publisher = self._events, self._checked, self._publisher.sock.fileno()
        for descriptor, _ in ready:
            if descriptor == publisher:
                self._publisher.read()
                continue
            data = os.read(descriptor, 4096)
            count = events.get(descriptor)
            if count is None:
                if not data.startswith(b"HTTP/1.1 200 "):
                    raise WrongResponse(f"a stream begins with {data[:40]!r}")
                count = 0
            elif not data:
                raise WrongResponse("a stream ended")
            came = data.count(END)
            events[descriptor] = count + came
            self._received += came
            if descriptor in checked:
                self._check(descriptor, data, time.monotonic())
        return len(ready)

    def _check(self, descriptor: int, data: bytes, now: float) -> None:
        due, rest = self._checked[descriptor]
        data = rest + data
        at = 0
        for event in EVENT.finditer(data):
            number = int(event[1])
            if due not in (number, -1):
                raise WrongResponse(f"event {number} instead of {due}")
            due = number + 1
            at = event.end()
            self.lateness.append(now - float(event[2]))
        self._checked[descriptor] = due, data[at:]
