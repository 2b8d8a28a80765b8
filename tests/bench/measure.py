"""The rows: the requests to a server, their number, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from .apps import work
from .client import Load, WrongResponse, connect
from .download import download
from .fanout import EACH, MANY, fanout, idle, many
from .figures import CPU, LATENESS, Ask, Figure, Row, Sample, late
from .publish import PUBLISH, publish
from .server import Server
from .ticks import Ticks

__all__ = ["FILE_SIZE", "MARK", "ROWS", "make_file"]

FILE_SIZE = 1 << 30
MILLION = 1_000_000
CPU_MS = Figure("cpu_seconds", "CPU", "ms", 1e3)
MARK = b"vento_wsgi bench"
"""Both ends of the file. A client that discards the rest recognises the file by them."""


def make_file(path: Path, scale: float) -> None:
    """A sparse file with MARK at both ends."""
    size = max(1 << 20, round(FILE_SIZE * scale))
    with path.open("wb") as file:
        file.write(MARK)
        file.truncate(size)
        file.seek(-len(MARK), os.SEEK_END)
        file.write(MARK)


def _content(body: bytes) -> bytes:
    """A body without the comments and the retry lines that a server may add to an event stream."""
    lines = body.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b":", b"retry:")))


def _requests(path: str, body: bytes, full: int) -> Callable[[Server, Ask], Sample]:
    def measure(server: Server, ask: Ask) -> Sample:
        count = ask.amount(full, 50)
        with Load(server.port, path, lambda found: _content(found) == body) as load:
            load.run(count // 4)
            before = server.settled_cpu_time()
            load.run(count)
            return {"cpu_seconds": (server.settled_cpu_time() - before) / count}

    return measure


def _rows(server: Server, ask: Ask) -> Sample:
    body = "".join(work.lines()).encode()
    count = ask.amount(MILLION // 2 // work.ROWS, 1)
    with Load(server.port, "/rows", lambda found: found == body, connections=1) as load:
        before = server.settled_cpu_time()
        load.run(count)
        spent = server.settled_cpu_time() - before
    return {"cpu_seconds": spent * MILLION / (count * work.ROWS)}


def _slow_streams(server: Server, ask: Ask) -> Sample:
    count, seconds = ask.amount(1000, 20), max(1.0, 3 * ask.scale)
    with closing(Ticks(server.port, "/ticks")) as ticks:
        ticks.open(count)
        before = server.cpu_time()
        client = ticks.run(seconds)
        spent = server.cpu_time() - before
        lateness = list(ticks.lateness)
    tokens, due = len(lateness), count * seconds / work.PERIOD
    if tokens < due / 4:
        raise WrongResponse(f"{tokens} tokens arrived of {due:.0f}")
    return {
        "cpu_seconds": spent / tokens,
        **late(lateness),
        "came": tokens / due,
        "client": client,
    }


def _live(server: Server, ask: Ask) -> Sample:
    """The memory of each stream after the first ones, for which the server grows once.

    Each of them has waited and sent a token at least once.
    """
    with closing(Ticks(server.port, "/live")) as streams:
        streams.open(ask.amount(200, 50))
        streams.run(work.LIVE_PERIOD)
        before, more = server.memory(), ask.amount(1000, 100)
        streams.open(more)
        streams.run(work.LIVE_PERIOD)
        return {"bytes_each": (server.memory() - before) / more}


def _files(server: Server, ask: Ask) -> Sample:
    size = ask.file.stat().st_size
    with connect(server.port) as sock:
        download(sock, server.port, "/file", size, MARK)
        before = server.settled_cpu_time()
        download(sock, server.port, "/file", size, MARK)
        spent = server.settled_cpu_time() - before
    return {"cpu_seconds": spent * FILE_SIZE / size}


ROWS = (
    Row(
        "two",
        "a whole request with a two-chunk stream",
        CPU,
        _requests("/two", b"".join(work.two()), 8_000),
    ),
    Row(
        "tokens",
        "200 tokens that are ready",
        CPU,
        _requests("/tokens", b"".join(work.tokens()), 1_500),
    ),
    Row("hello", "a hello world", CPU, _requests("/hello", work.HELLO.encode(), 6_000)),
    Row("ticks", "a token every 50 ms, 1,000 streams", CPU, _slow_streams, LATENESS),
    Row("live", "memory of a live generator stream", EACH, _live),
    Row("rows", "a million rows as NDJSON", CPU_MS, _rows),
    Row("file", "a 1 GiB file", CPU_MS, _files),
    Row("fanout", "an event to 1,000 subscribers, 20 a second", CPU, fanout, LATENESS),
    Row("idle", "memory of an idle subscriber", EACH, idle),
    Row("publish", "an event from one publisher", CPU, publish, PUBLISH),
    Row("many", "memory with 100,000 idle subscribers", MANY[0], many, MANY[1:], once=True),
)
