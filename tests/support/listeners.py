"""Clients that must not miss an event, and publishers in processes of their own.

    with Crowd(running, url) as crowd:
        crowd.come(200, "news")
        crowd.publish(1000)
        crowd.finish()
        crowd.check()

A `Listener` behaves as EventSource in the WHATWG HTML standard (section 9.2): it keeps the id of
every block, also of a block without data. When it is disconnected it waits for the time in
``retry:`` (shortened here), reconnects, and sends Last-Event-ID. One loop reads for all listeners.
"""

import heapq
import itertools
import os
import random
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest

from support.closing import Closing
from support.servers import ROOT, Running

PATIENCE = 30.0  # seconds until a condition must hold
RETRY = 0.05  # seconds until a listener reconnects if the stream had no retry
LONGEST_RETRY = 0.2  # seconds: a longer retry is shortened to this
TOPICS = ("news", "world/north", "world/south")

PUBLISHER = f"""
import sys
from vento_wsgi import Broker
broker, topics, number = Broker(), {TOPICS!r}, 0
for line in sys.stdin:
    for _ in range(int(line)):
        number += 1
        topic = topics[number % len(topics)]
        print(broker.publish(topic, f"{{sys.argv[1]}} {{number}} {{topic}}"), flush=True)
"""


class Told(NamedTuple):
    """An event as a client receives it. name is empty for "message"."""

    id: str
    data: str
    name: str = ""


class Listener:
    """One EventSource. workers: the processes that answered its requests, in order."""

    def __init__(self, address: tuple[str, int], topics: tuple[str, ...]) -> None:
        self.topics = topics
        self.told: list[Told] = []
        self.last_id = ""
        self.retry = RETRY
        self.workers: list[int] = []
        self.sock: socket.socket | None = None
        self._address = address
        self._raw = bytearray()
        self._body = b""
        self.answered = False

    def __str__(self) -> str:
        return f"a listener to {self.topics} at workers {self.workers}"

    def connect(self) -> socket.socket:
        self._raw.clear()
        self._body = b""
        self.sock = socket.create_connection(self._address, PATIENCE)
        asked = "&".join(topic if "=" in topic else f"topic={topic}" for topic in self.topics)
        last = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
        self.sock.sendall(f"GET /news?{asked} HTTP/1.1\r\nHost: test\r\n{last}\r\n".encode())
        self.sock.setblocking(False)
        return self.sock

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock, self.answered = None, False

    def receive(self) -> bool:
        """Read what is there. False: this connection has ended."""
        assert self.sock is not None
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            return False
        self._raw += data
        if not self.answered and not self._head():
            return bool(data)
        goes_on = self._chunks()
        *blocks, self._body = self._body.split(b"\n\n")
        for block in blocks:
            self._block(block.decode())
        return bool(data) and goes_on

    def _head(self) -> bool:
        head, end, _ = bytes(self._raw).partition(b"\r\n\r\n")
        if not end:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), head
        worker = re.search(rb"^Worker: (\d+)", head, re.MULTILINE)
        assert worker
        self.workers.append(int(worker[1]))
        del self._raw[: len(head) + 4]
        self.answered = True
        return True

    def _chunks(self) -> bool:
        raw, at, goes_on = self._raw, 0, True
        while goes_on and (end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:end], 16)
            if len(raw) < end + size + 4:
                break
            self._body += raw[end + 2 : end + 2 + size]
            at = end + size + 4
            goes_on = size > 0
        del raw[:at]
        return goes_on

    def _block(self, block: str) -> None:
        last_id, data, name = self.last_id, "", ""
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            match field:
                case "id":
                    last_id = value
                case "data":
                    data += value
                case "event":
                    name = value
                case "retry":
                    self.retry = min(int(value) / 1000, LONGEST_RETRY)
        self.last_id = last_id
        if data:
            self.told.append(Told(last_id, data, name))


class Publisher:
    """A process that publishes events on demand. told: the events that it has published."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.told: list[Told] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, name],
            cwd=ROOT,
            env={**os.environ, "VENTO_BROKER_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._partial = b""

    def publish(self, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % count)

    def receive(self) -> None:
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        assert data, "a publisher has failed"
        *ids, self._partial = (self._partial + data).split(b"\n")
        for each in ids:
            number = len(self.told) + 1
            topic = TOPICS[number % len(TOPICS)]
            self.told.append(Told(each.decode(), f"{self.name} {number} {topic}"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


class Crowd(Closing):
    """Listeners at `running` and publishers at the broker, in one loop."""

    def __init__(self, running: Running, url: str, publishers: int = 2, seed: int = 0) -> None:
        self.listeners: list[Listener] = []
        self.asked = 0
        self.random = random.Random(seed)
        self._running = running
        self._selector = selectors.DefaultSelector()
        self._away: list[tuple[float, int, Listener]] = []
        self._count = itertools.count()
        self._publishers = [Publisher(f"p{number}", url) for number in range(publishers)]
        for publisher in self._publishers:
            assert publisher.process.stdout is not None
            self._selector.register(
                publisher.process.stdout, selectors.EVENT_READ, (publisher, publisher.receive)
            )

    def come(self, count: int, *topics: str) -> None:
        """Add listeners, and wait until each has an id."""
        come = [Listener((self._running.host, self._running.port), topics) for _ in range(count)]
        self.listeners += come
        for listener in come:
            self._connect(listener)
        self.until(lambda: all(listener.last_id for listener in come))

    def publish(self, count: int) -> None:
        """Ask the publishers for `count` more events in total."""
        shares = len(self._publishers)
        for number, publisher in enumerate(self._publishers):
            publisher.publish(count // shares + (number < count % shares))
        self.asked += count

    @property
    def published(self) -> int:
        return sum(len(publisher.told) for publisher in self._publishers)

    @property
    def listening(self) -> int:
        """How many listeners have an open stream now."""
        return sum(listener.answered for listener in self.listeners)

    def turn(self) -> None:
        """Read what is there, and reconnect the listeners whose time has come."""
        for key, _ in self._selector.select(0.01):
            who, receive = key.data
            if receive() is False:
                self.leave(who, who.retry)
        while self._away and self._away[0][0] <= time.monotonic():
            self._connect(heapq.heappop(self._away)[2])

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {self._state()}\n{self._running.log()}")
            self.turn()

    def leave(self, listener: Listener, back: float) -> None:
        """Drop the connection of a listener, which reconnects in `back` seconds."""
        if listener.sock is not None:
            self._selector.unregister(listener.sock)
            listener.close()
            heapq.heappush(self._away, (time.monotonic() + back, next(self._count), listener))

    def _connect(self, listener: Listener) -> None:
        try:
            sock = listener.connect()
        except ConnectionError:
            listener.close()
            again = time.monotonic() + listener.retry
            heapq.heappush(self._away, (again, next(self._count), listener))
        else:
            self._selector.register(sock, selectors.EVENT_READ, (listener, listener.receive))

    def finish(self) -> None:
        """Wait until every listener has every event, then publish some more and wait again."""
        for last in (0, 2 * len(TOPICS) * len(self._publishers)):
            self.publish(last)
            self.until(lambda: self.published == self.asked)
            told = self._told()
            due = {topics: sum(map(wanted(topics), told)) for topics in self._topics()}
            self.until(
                lambda: all(
                    len(listener.told) >= due[listener.topics]  # noqa: B023
                    for listener in self.listeners
                )
            )

    def check(self) -> None:
        """Assert that each listener has each event of its topics once, all in the same order."""
        ids = Counter(told.id for told in self._told())
        assert max(ids.values()) == 1, "an id was given twice"
        for topics in self._topics():
            due = set(filter(wanted(topics), self._told()))
            listeners = [each for each in self.listeners if each.topics == topics]
            for listener in listeners:
                missing = due.difference(listener.told)
                doubled = [told for told, n in Counter(listener.told).items() if n > 1]
                strange = set(listener.told) - due
                assert not missing, f"{len(missing)} are missing, as {min(missing)}: {listener}"
                assert not doubled, f"{len(doubled)} came twice, as {min(doubled)}: {listener}"
                assert not strange, f"{len(strange)} should not be, as {min(strange)}: {listener}"
                assert (listener.told == listeners[0].told) is True, f"another order: {listener}"
        everything = max((listener.told for listener in self.listeners), key=len)
        place = {told: number for number, told in enumerate(everything)}
        for publisher in self._publishers:
            places = [place[told] for told in publisher.told if told in place]
            assert (places == sorted(places)) is True, f"not in the order of {publisher.name}"
        for topics in self._topics():
            told = next(each.told for each in self.listeners if each.topics == topics)
            places = [place[each] for each in told if each in place]
            assert (places == sorted(places)) is True, f"{topics} are in another order"

    def _told(self) -> list[Told]:
        return [told for publisher in self._publishers for told in publisher.told]

    def _topics(self) -> set[tuple[str, ...]]:
        return {listener.topics for listener in self.listeners}

    def _state(self) -> str:
        have = Counter(len(listener.told) for listener in self.listeners)
        return f"{self.published} of {self.asked} published; listeners by what they have: {have}"

    def close(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        for listener in self.listeners:
            listener.close()
        self._selector.close()


def below(topic: str) -> str:
    """For a listener to all topics below one."""
    return f"below={topic}"


def wanted(topics: tuple[str, ...]) -> Callable[[Told], bool]:
    """Whether an event is of `topics`."""
    names = [name for name in TOPICS if name in topics or below(name.partition("/")[0]) in topics]
    return lambda told: told.data.rpartition(" ")[2] in names
