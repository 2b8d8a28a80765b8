"""Subscribers of apps/parked.py, and the state of its broker."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.engine import Server
from support.servers import EVENT_SOURCE, Chunked, Raw, eventually, serve, target
from support.tls import Certificate
from vento_wsgi import Event
from vento_wsgi.sse import decode

WINDOW = 0.5  # seconds over which a worker that stops sends its subscribers away


@contextmanager
def started(
    name: str,
    tmp: Path,
    *options: str,
    certificate: Certificate | None = None,
    **environ: str,
) -> Iterator[Server]:
    environ = {"VENTO_DRAIN_WINDOW": str(WINDOW), "PYTHONDEVMODE": "1", **environ}
    options = ("--worker-connections=5000", *options)
    with serve(
        name, "apps.parked:app", tmp=tmp, options=options, env=environ, certificate=certificate
    ) as running:
        yield Server(running)


class Source:
    """A client of one subscription, and what it has read."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.response = Chunked(raw)
        self.head = b""

    def opened(self) -> Event:
        """Read the head, the opening comment and the first mark."""
        self.head = self.response.head()
        first = b""
        while not first.endswith(b"\n\n"):  # the first of a process waits for its fan-out
            chunk = self.response.next()
            assert chunk is not None
            first += chunk
        assert first.startswith(b":\nretry: 3000\nid: "), first
        *_, mark = decode([first])
        assert mark.data is None
        return mark

    def next(self) -> list[Event]:
        chunk = self.response.next()
        assert chunk is not None
        return list(decode([chunk]))

    def until(self, data: str) -> list[Event]:
        """The events up to the one with `data`."""
        found: list[Event] = []
        while not found or (found[-1].data or "").strip(".") != data:
            found += self.next()
        return [event for event in found if event.data is not None]

    def rest(self) -> list[Event]:
        return list(decode([self.response.rest()]))


@contextmanager
def subscribed(
    server: Server, path: str, *fields: str, method: str = "GET", buffer: int | None = None
) -> Iterator[Source]:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(30)
        sock.connect((server.running.host, server.running.port))
        source = Source(Raw(sock, server.running))
        stack.enter_context(source.response)
        source.raw.ask(method, path, EVENT_SOURCE, *fields)
        yield source


def publish(server: Server, topic: str, **query: object) -> list[str]:
    return server.get(target(f"/publish/{topic}", **query)).decode().split()


def parked(server: Server) -> Any:
    return json.loads(server.get("/parked"))


def settled(server: Server, sinks: int = 0) -> Any:
    eventually(lambda: parked(server)["sinks"] == sinks, explain=lambda: str(parked(server)))
    return parked(server)


def numbers_of(events: list[Event]) -> list[int]:
    return [int((event.data or "").strip(".")) for event in events]
