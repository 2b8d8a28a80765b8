"""Shared by the tests of apps/engine.py and apps/parked.py.

The tests do not measure time. A source waits at a gate that the test holds, or for ever. The
application returns a stream's records over HTTP.
"""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support.gates import Gate
from support.servers import (
    COMMENT,
    OPENING,
    STOCK,
    STREAM_WORKER,
    Chunked,
    Raw,
    Running,
    connect,
    eventually,
    target,
)

GEVENT = (STREAM_WORKER, STOCK, "gunicorn-gevent_pywsgi")
THREADS = ("gunicorn-gthread", "waitress")
TEXT, EVENTS = "text/plain", "text/event-stream"
FIRST = b"data: first\n\n"
MB = 1024 * 1024

on_stream_worker = pytest.mark.parametrize("server", [STREAM_WORKER], indirect=True)
of_each_kind = pytest.mark.parametrize("kind", [TEXT, EVENTS])
with_heartbeats = pytest.mark.parametrize(
    ("kind", "query", "beat"),
    [(EVENTS, {"heartbeat": 0.3}, COMMENT), (TEXT, {"heartbeat": 0.3, "beat": "%0A"}, b"\n")],
    ids=["comments", "newlines"],
)


@dataclass(frozen=True)
class Server:
    """A running server, and the records of its application."""

    running: Running

    @property
    def name(self) -> str:
        return self.running.server

    def connect(self) -> Raw:
        return connect(self.running)

    def get(self, path: str) -> bytes:
        with self.connect() as raw:
            raw.request("GET", path, "Connection: close")
            body = raw.read_all()
            assert body.complete
            return body.data

    def notes(self, name: str) -> Any:
        return json.loads(self.get(f"/notes/{name}"))

    def census(self) -> Counter[str]:
        return Counter(json.loads(self.get("/census")))

    def ending(self, name: str) -> Any:
        """Wait until the stream has ended; what its on_end was given, the only time."""
        eventually(lambda: self.notes(name)["endings"] != [], explain=self.running.log)
        (ending,) = self.notes(name)["endings"]
        return ending


@contextmanager
def asked(server: Server, path: str) -> Iterator[tuple[Raw, Chunked]]:
    """A connection on which `path` was asked for."""
    with server.connect() as raw, Chunked(raw) as response:
        raw.ask("GET", path)
        yield raw, response


@contextmanager
def slow(server: Server, path: str) -> Iterator[Raw]:
    """A connection on which `path` was asked for, and of which the kernel holds little."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.settimeout(30)
        sock.connect((server.running.host, server.running.port))
        raw = Raw(sock, server.running)
        raw.ask("GET", path)
        yield raw


def first_of(raw: Raw, path: str) -> None:
    """Ask for a stream and read its first chunk."""
    raw.request("GET", path)
    got = b""
    while FIRST not in got:
        piece = raw.read_piece()
        assert piece is not None, got
        got += piece.data


def assert_heartbeat(
    server: Server, gate: Gate, kind: str, query: dict[str, object], beat: bytes
) -> None:
    with asked(server, target("/paced", gate=gate.port, type=kind, **query)) as (_, response):
        assert gate.wanted()
        response.head()
        if kind == EVENTS:
            assert response.next() == OPENING
        assert response.next() == beat
        gate.next()
        assert response.next() == b"data: 1.0\n\n"
        assert response.next() == beat
        gate.end()
        assert response.rest().replace(beat, b"") == b""
