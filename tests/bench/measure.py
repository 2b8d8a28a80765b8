"""The rows: what is asked of a server, how much of it, and what it took."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .apps import work
from .client import Load, WrongResponse, connect
from .download import download
from .server import Server
from .ticks import Ticks

__all__ = ["FILE_SIZE", "MARK", "ROWS", "Ask", "Row", "Sample", "Slowness", "make_file"]

FILE_SIZE = 1 << 30
MILLION = 1_000_000
MARK = b"vento_wsgi bench"
"""Stands at both ends of the file, so that a client that discards the rest knows it."""


@dataclass(frozen=True)
class Ask:
    """What a row may ask for. scale: of the full amount. file: what is sent of it."""

    scale: float
    file: Path

    def amount(self, full: int, least: int) -> int:
        return max(least, round(full * self.scale))


@dataclass(frozen=True)
class Slowness:
    """What many slow streams looked like from their client.

    p50, p99: how late tokens were, in seconds. rate: the part of the tokens due that came; a
    server at its limit makes fewer. client: the part of a core that the client took; near 1 it
    is the client that is late.
    """

    p50: float
    p99: float
    rate: float
    client: float


@dataclass(frozen=True)
class Sample:
    """What one unit took. cpu: seconds of the server's CPU time."""

    cpu: float
    slowness: Slowness | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table. Figures are shown in `unit`, of which a second has `in_second`."""

    name: str
    title: str
    unit: str
    in_second: float
    measure: Callable[[Server, Ask], Sample]


def make_file(path: Path, scale: float) -> None:
    """A sparse file with MARK at both ends."""
    size = max(1 << 20, round(FILE_SIZE * scale))
    with path.open("wb") as file:
        file.write(MARK)
        file.truncate(size)
        file.seek(-len(MARK), os.SEEK_END)
        file.write(MARK)


def _without_comments(body: bytes) -> bytes:
    blocks = body.split(b"\n\n")
    return b"\n\n".join(block for block in blocks if not block.startswith(b":"))


def _requests(path: str, body: bytes, full: int) -> Callable[[Server, Ask], Sample]:
    def measure(server: Server, ask: Ask) -> Sample:
        count = ask.amount(full, 50)
        with Load(server.port, path, lambda found: _without_comments(found) == body) as load:
            load.run(count // 4)
            before = server.settled_cpu_time()
            load.run(count)
            return Sample((server.settled_cpu_time() - before) / count)

    return measure


def _rows(server: Server, ask: Ask) -> Sample:
    body = "".join(work.lines()).encode()
    count = ask.amount(MILLION // work.ROWS, 1)
    with Load(server.port, "/rows", lambda found: found == body, connections=1) as load:
        before = server.settled_cpu_time()
        load.run(count)
        spent = server.settled_cpu_time() - before
    return Sample(spent * MILLION / (count * work.ROWS))


def _slow_streams(server: Server, ask: Ask) -> Sample:
    count, seconds = ask.amount(1000, 20), max(1.0, 5 * ask.scale)
    with closing(Ticks(server.port, "/ticks", count)) as ticks:
        before = server.cpu_time()
        client = ticks.run(seconds)
        spent = server.cpu_time() - before
        late = sorted(ticks.lateness)
    tokens, due = len(late), count * seconds / work.PERIOD
    if tokens < due / 4:
        raise WrongResponse(f"{tokens} tokens came of {due:.0f}")
    return Sample(
        spent / tokens,
        Slowness(late[tokens // 2], late[tokens * 99 // 100], tokens / due, client),
    )


def _files(server: Server, ask: Ask) -> Sample:
    size, times = ask.file.stat().st_size, 2
    with connect(server.port) as sock:
        download(sock, server.port, "/file", size, MARK)
        before = server.settled_cpu_time()
        for _ in range(times):
            download(sock, server.port, "/file", size, MARK)
        spent = server.settled_cpu_time() - before
    return Sample(spent * FILE_SIZE / size / times)


ROWS = (
    Row(
        "two",
        "a whole request with a two-chunk stream",
        "µs",
        1e6,
        _requests("/two", b"".join(work.two()), 10_000),
    ),
    Row(
        "tokens",
        "200 tokens that are ready",
        "µs",
        1e6,
        _requests("/tokens", b"".join(work.tokens()), 2_000),
    ),
    Row("ticks", "a token every 50 ms, 1,000 streams", "µs", 1e6, _slow_streams),
    Row("rows", "a million rows as NDJSON", "ms", 1e3, _rows),
    Row("file", "a 1 GiB file", "ms", 1e3, _files),
)
