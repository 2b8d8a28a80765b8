"""No kind of response leaves anything behind, on any gevent server.

apps/leaks.py has each kind of response, bare and below a StreamGuard, and a census of what
lives in the worker: greenlets, watchers of the loop, descriptors, members of the ticker.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable

import pytest
from support.fixtures import served
from support.servers import Raw, Running, connect, eventually

from vento_wsgi.bodies.sources import READ_SIZE

SERVERS = ("gunicorn-StreamWorker", "gunicorn-gevent", "gunicorn-gevent_pywsgi", "gevent-pywsgi")

WARM = 10  # visits after which caches and pools are filled
TIMES = 50  # visits whose leftovers are counted
TOGETHER = 10  # clients that leave at a time

ENDS = [
    *("list", "tuple", "closing-list", "generator", "iterator", "file-wrapper", "write"),
    *("ours/text", "ours/stream", "ours/sse", "ours/file", "ours/none", "ours/nowhere"),
    *("ours/error", "compressed/text", "compressed/stream", "compressed/sse"),
]
BREAK = ["plain-fails", "raises", "raises-at-first", "ours/fails"]  # and so does the connection
LASTS = [
    *("ticks", "large-file-wrapper", "ours/live", "ours/waits", "ours/news", "ours/large-file"),
    *("compressed/live", "compressed/waits", "compressed/news"),
]

CLOSE = "Connection: close"

everywhere = pytest.mark.parametrize("where", ["bare", "guarded"])


server = served("apps.leaks:app", *SERVERS)


def census(asks: Raw) -> Counter[str]:
    asks.request("GET", "/census")
    return Counter(json.loads(asks.read_all().data))


def leave_nothing(server: Running, visit: Callable[[int], None]) -> None:
    """Nothing is left of many visits. Pools may still grow: by less than one for two visits."""
    with connect(server) as asks:
        visit(WARM)
        before = census(asks)
        visit(TIMES)
        left: Counter[str] = Counter()

        def nothing_left() -> bool:
            nonlocal left
            left = census(asks) - before
            return all(count < TIMES / 2 for count in left.values())

        eventually(nothing_left, explain=lambda: str(left))


def visits(server: Running, path: str, *fields: str, method: str = "GET") -> None:
    """Ask for a path many times, on one connection for as long as the server keeps it."""

    def visit(times: int) -> None:
        raw: Raw | None = None
        for _ in range(times):
            raw = raw or connect(server)
            raw.request(method, path, *fields)
            if not raw.read_all().complete or CLOSE in fields:
                raw.close()
                raw = None
        if raw is not None:
            raw.close()

    leave_nothing(server, visit)


@everywhere
@pytest.mark.parametrize("kind", [*ENDS, *BREAK])
def test_a_response_that_ends_leaves_nothing(server: Running, kind: str, where: str) -> None:
    # gevent.pywsgi sends head and body one after the other, which costs 40 ms on an old connection
    close = [CLOSE] if kind in BREAK or server.server == "gevent-pywsgi" else []
    visits(server, f"/{where}/{kind}", "Accept-Encoding: gzip", *close)


@everywhere
@pytest.mark.parametrize(
    "kind", ["list", "iterator", "file-wrapper", "ours/live", "ours/large-file"]
)
def test_a_head_leaves_nothing(server: Running, kind: str, where: str) -> None:
    visits(server, f"/{where}/{kind}", CLOSE, method="HEAD")


@everywhere
def test_what_was_not_modified_leaves_nothing(server: Running, where: str) -> None:
    path = f"/{where}/ours/file"
    with connect(server) as raw:
        tag = raw.request("GET", path).headers["ETag"]
        raw.read_all()
        assert raw.request("GET", path, f"If-None-Match: {tag}").status == 304
    visits(server, path, f"If-None-Match: {tag}")


@everywhere
@pytest.mark.parametrize("kind", LASTS)
def test_clients_that_leave_in_the_middle_leave_nothing(
    server: Running, kind: str, where: str
) -> None:
    leave(server, f"/{where}/{kind}")


@pytest.mark.parametrize("kind", ["list", "generator", "ours/text", "ours/stream"])
def test_a_guard_in_a_guard_leaves_nothing(server: Running, kind: str) -> None:
    visits(server, f"/nested/{kind}", CLOSE)


@pytest.mark.parametrize("kind", ["ticks", "large-file-wrapper", "ours/waits", "ours/news"])
def test_clients_that_leave_a_guard_in_a_guard_leave_nothing(server: Running, kind: str) -> None:
    leave(server, f"/nested/{kind}")


def leave(server: Running, path: str) -> None:
    """Ask for a path many times, and leave in the middle."""

    def visit(times: int) -> None:
        for _ in range(times // TOGETHER):
            raws = [slow_reader(server) for _ in range(TOGETHER)]
            for raw in raws:
                raw.request("GET", path, "Accept-Encoding: gzip")
                assert raw.read_piece()
            for raw in raws:
                raw.close()

    leave_nothing(server, visit)


def slow_reader(server: Running) -> Raw:
    """A client whose socket takes little, so that a large file is not sent at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_SIZE)
    sock.settimeout(10)
    sock.connect((server.host, server.port))
    return Raw(sock, server)
