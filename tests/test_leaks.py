"""No response leaves anything behind, whatever it is made of, on no gevent server.

apps/leaks.py has each kind of response, bare and below a StreamGuard, and a census of what
lives in the worker: greenlets, watchers of the loop, descriptors, members of the clock.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Raw, Running, connect, eventually, serve

from vento_wsgi.body import READ_SIZE

HERE = Path(__file__).resolve().parent
SERVERS = ("gunicorn-StreamWorker", "gunicorn-gevent", "gunicorn-gevent_pywsgi", "gevent-pywsgi")

WARM = 10  # requests after which all caches and pools are filled
TIMES = 100  # requests whose leftovers are counted
LEAVING = 20  # clients that leave at a time

ENDS = [
    *("list", "tuple", "closing-list", "generator", "iterator", "file-wrapper", "write"),
    *("plain-fails", "raises", "raises-at-first"),
    *("ours/text", "ours/stream", "ours/sse", "ours/file", "ours/none", "ours/fails"),
    *("ours/error", "ours/nowhere", "compressed/text", "compressed/stream", "compressed/sse"),
]
LASTS = [
    *("ticks", "large-file-wrapper", "ours/live", "ours/waits", "ours/news", "ours/large-file"),
    *("compressed/live", "compressed/waits", "compressed/news"),
]

everywhere = pytest.mark.parametrize("where", ["bare", "guarded", "nested"])


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("leaks")
    with serve(request.param, "apps.leaks:app", cwd=HERE, tmp=tmp) as running:
        yield running


def census(raw: Raw) -> tuple[Counter[str], int]:
    raw.request("GET", "/census")
    told = json.loads(raw.read_all().data)
    return Counter(told["found"]), told["objects"]


class Visits:
    """One client that asks for a path many times, on one connection as long as it lasts."""

    def __init__(self, server: Running, path: str, *fields: str, method: str = "GET") -> None:
        self._server = server
        self._request = (method, path, *fields)
        self._raw: Raw | None = None

    def __call__(self, times: int) -> None:
        for _ in range(times):
            raw = self._raw or connect(self._server)
            head = raw.request(*self._request)
            complete = raw.read_all().complete
            self._raw = raw if complete and head.headers.get("Connection") != "close" else None
            if self._raw is None or head.status >= 500:
                raw.close()
                self._raw = None

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()


def leaves_nothing(server: Running, path: str, *fields: str, method: str = "GET") -> None:
    visits = Visits(server, path, *fields, method=method)
    with connect(server) as asks:
        asks.request("GET", "/census")
        asks.read_all()
        start, _ = census(asks)
        visits(WARM)
        _, objects = census(asks)
        visits(TIMES)
        visits.close()
        assert_nothing_left(asks, start, objects)


def assert_nothing_left(asks: Raw, start: Counter[str], objects: int) -> None:
    left: tuple[Counter[str], int] = Counter(), 0

    def nothing_left() -> bool:
        nonlocal left
        found, all_objects = census(asks)
        left = found - start, all_objects - objects
        # a pool may have got its first greenlet, a clock its first tick
        return left[0].total() < 5 and left[1] < TIMES

    eventually(nothing_left, explain=lambda: f"{left[0]}, {left[1]} objects of any kind")


@everywhere
@pytest.mark.parametrize("kind", ENDS)
def test_a_response_that_ends_leaves_nothing(server: Running, kind: str, where: str) -> None:
    leaves_nothing(server, f"/{where}/{kind}", "Accept-Encoding: gzip")


@everywhere
@pytest.mark.parametrize("kind", ["list", "ticks", "file-wrapper", "ours/live", "ours/large-file"])
def test_a_head_leaves_nothing(server: Running, kind: str, where: str) -> None:
    leaves_nothing(server, f"/{where}/{kind}", method="HEAD")


@everywhere
def test_what_was_not_modified_leaves_nothing(server: Running, where: str) -> None:
    path = f"/{where}/ours/file"
    with connect(server) as raw:
        tag = raw.request("GET", path).headers["ETag"]
        raw.read_all()
        assert raw.request("GET", path, f"If-None-Match: {tag}").status == 304
    leaves_nothing(server, path, f"If-None-Match: {tag}")


@everywhere
@pytest.mark.parametrize("kind", LASTS)
def test_clients_that_leave_in_the_middle_leave_nothing(
    server: Running, kind: str, where: str
) -> None:
    def come_and_leave() -> None:
        raws = []
        for _ in range(LEAVING):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_SIZE)
            sock.settimeout(10)
            sock.connect((server.host, server.port))
            raws.append(Raw(sock, server))
        for raw in raws:
            raw.request("GET", f"/{where}/{kind}", "Accept-Encoding: gzip")
            assert raw.read_piece()
        for raw in raws:
            raw.close()

    with connect(server) as asks:
        start, _ = census(asks)
        come_and_leave()
        assert_nothing_left(asks, start, census(asks)[1])
        _, objects = census(asks)
        for _ in range(TIMES // LEAVING):
            come_and_leave()
        assert_nothing_left(asks, start, objects)
