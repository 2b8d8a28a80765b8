"""Subscribers of real servers: each ends when its client leaves, and none gets a needless gap.

A handler may pass a subscription on as it is, in a generator of its own, or through map() and the
like; and a client may leave while nothing is published. See test_parked.py for what they are sent.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from support.logs import RedisServer
from support.servers import Raw, Running, connect, eventually, serve

from vento_wsgi import Event
from vento_wsgi.sse import COMMENT, decode

STREAM_WORKER, GEVENT, THREADS = "gunicorn-StreamWorker", "gunicorn-gevent", "gunicorn-gthread"
VISITS = 200
WAITING = ["itself", "generator", "tidy", "nested", "map", "filter", "chain"]
AFTER_AN_EVENT = ["breaks", "caught"]
KEEP = 40

numbers = count()


@contextmanager
def started(
    server: str, tmp: Path, url: str = "memory://", keep: int = 10_000
) -> Iterator[Running]:
    env = {"URL": url, "KEEP": str(keep), "PYTHONDEVMODE": "1"}
    with serve(server, "apps.subscribers:app", tmp=tmp, env=env) as running:
        yield running
        log = running.log()
        assert log.count("Traceback") == log.count("RuntimeError: told to fail")


@pytest.fixture(scope="module", params=[STREAM_WORKER, GEVENT, THREADS])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with started(request.param, tmp_path_factory.mktemp("subscribers")) as running:
        yield running


@pytest.fixture
def topic() -> str:
    """A topic that no other test has."""
    return f"topic{next(numbers)}"


def get(running: Running, path: str) -> str:
    with connect(running) as raw:
        assert raw.request("GET", path, "Connection: close").status == 200
        return raw.read_all().data.decode()


def subscribers(running: Running) -> int:
    return int(get(running, "/subscribers"))


def settled(running: Running, number: int) -> None:
    eventually(
        lambda: subscribers(running) == number,
        explain=lambda: f"{subscribers(running)} subscribers",
    )


@contextmanager
def visit(running: Running, path: str, *fields: str) -> Iterator[Raw]:
    with connect(running) as raw:
        assert raw.request("GET", path, *fields).status == 200
        yield raw


def received(raw: Raw) -> str:
    piece = raw.read_piece()
    assert piece is not None
    return piece.data.decode()


# Clients that leave.


@pytest.mark.parametrize("how", WAITING)
def test_a_client_that_leaves_while_nothing_is_published_leaves_nothing(
    server: Running, topic: str, how: str
) -> None:
    settled(server, 0)
    # with threads, a departure is seen when something is sent; eight of them serve the visits
    threads = server.server == THREADS
    together = 6 if threads else VISITS // 2
    path = f"/events/{how}/{topic}" + ("?heartbeat=0.05" if threads else "")
    for _ in range(0, 30 if threads else VISITS, together):
        with ExitStack() as stack:
            for _ in range(together):
                received(stack.enter_context(visit(server, path)))
            settled(server, together)
        settled(server, 0)


@pytest.mark.parametrize("how", AFTER_AN_EVENT)
def test_a_loop_that_is_left_leaves_nothing(server: Running, topic: str, how: str) -> None:
    settled(server, 0)
    path = f"/events/{how}/{topic}" + ("?heartbeat=0.05" if server.server == THREADS else "")
    with visit(server, path) as raw:
        settled(server, 1)
        get(server, f"/publish/{topic}")
        while "data: 0" not in received(raw):
            pass
        settled(server, 1)  # that of the topic to which nothing is ever published
    settled(server, 0)


def test_a_loop_that_fails_leaves_nothing(server: Running, topic: str) -> None:
    with visit(server, f"/events/raises/{topic}") as raw:
        settled(server, 1)
        get(server, f"/publish/{topic}")
        assert b"event: error" in raw.read_all().data
    settled(server, 0)


@pytest.mark.parametrize("how", ["generator", "map"])
def test_a_client_that_is_too_slow_is_sent_away_and_no_failure(
    server: Running, topic: str, how: str
) -> None:
    # the fixture sees to it that nothing is logged as a failure
    with visit(server, f"/events/{how}/{topic}?backlog=1&heartbeat=1") as raw:
        settled(server, 1)
        get(server, f"/publish/{topic}?count=1000")
        body = raw.read_all()
    assert not body.complete
    assert b"event: error" not in body.data
    settled(server, 0)


# Clients that reconnect.


def test_a_handlers_own_generator_may_begin_with_an_id(server: Running, topic: str) -> None:
    path = f"/events/with%20an%20id/{topic}?heartbeat=0.05"
    with visit(server, path) as raw:
        while "id: " not in (text := received(raw)):
            pass
    name = text.partition("id: ")[2].split()[0]
    get(server, f"/publish/{topic}")
    with visit(server, path, f"Last-Event-ID: {name}") as raw:
        while "data: 0" not in (text := received(raw)):
            assert "gap" not in text
    settled(server, 0)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        redis = RedisServer()
        redis.start("--appendfsync", "no")
        yield redis.url
        redis.stop()
    else:
        yield {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}[request.param]


@pytest.fixture(params=[STREAM_WORKER, GEVENT])
def forgetful(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[Running]:
    """A server whose log keeps 40 events. On one of them a subscriber is parked."""
    with started(request.param, tmp_path, url, KEEP) as running:
        yield running


class Client:
    """Reads an event stream in the background, as it comes."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.events: list[Event] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        pieces = iter(self.raw.read_piece, None)
        self.events.extend(decode(piece.data for piece in pieces))

    @property
    def ids(self) -> list[str]:
        return [event.id for event in tuple(self.events) if event.id is not None]

    @property
    def told(self) -> list[tuple[str | None, str | None]]:
        """Names and data of the events that a browser dispatches."""
        events = tuple(self.events)
        return [(event.event, event.data) for event in events if event.data is not None]

    def leave(self) -> None:
        self.raw.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@contextmanager
def listening(running: Running, path: str, after: str | None = None) -> Iterator[Client]:
    fields = [] if after is None else [f"Last-Event-ID: {after}"]
    with visit(running, path, *fields) as raw:
        client = Client(raw)
        try:
            yield client
        finally:
            client.leave()


def comes_back_to(running: Running, after: str) -> tuple[str | None, str | None]:
    """The first event for a client that reconnects with this id, which is one of the log."""
    topic = f"probe{next(numbers)}"
    with listening(running, f"/events/itself/{topic}", after) as client:
        get(running, f"/publish/{topic}")
        eventually(lambda: len(client.told) > 0)
        return client.told[0]


def test_a_client_of_a_quiet_topic_beside_a_busy_one_gets_no_gap(forgetful: Running) -> None:
    with listening(forgetful, "/events/itself/quiet") as client:
        eventually(lambda: len(client.ids) == 1)
        first = client.ids[0]
        for _ in range(10):
            for _ in range(6):
                get(forgetful, "/publish/busy?count=5")
            eventually(lambda: comes_back_to(forgetful, client.ids[-1]) == (None, "0"))
        assert comes_back_to(forgetful, first)[0] == "gap", "though it has been dropped"
        assert client.told == []
        assert len(client.ids) < 3 * 330 / KEEP, "and only where it is needed"
        assert len(set(client.ids)) == len(client.ids)


def test_what_is_no_id_of_the_log_is_answered_by_a_gap_at_its_end(forgetful: Running) -> None:
    *_, last = get(forgetful, "/publish/a?count=30").split()
    for after in ("garbage", "0-1", "vaaaaaaaa-7"):
        with listening(forgetful, "/events/itself/a", after) as client:
            eventually(lambda: len(client.told) == 1)
            assert client.ids == [last]
            live = get(forgetful, "/publish/a")
            eventually(lambda: client.ids[-1] == live)  # noqa: B023
            assert client.told == [
                ("gap", json.dumps({"until": last}, separators=(",", ":"))),
                (None, "0"),
            ]
        last = live


def test_silence_is_broken_by_comments_alone(server: Running, topic: str) -> None:
    with visit(server, f"/events/itself/{topic}?heartbeat=0.05") as raw:
        data = ""
        while "id: " not in data:
            data += received(raw)
        for n in range(10):
            get(server, f"/publish/other{topic}")
            assert received(raw).encode().replace(COMMENT, b"") == b"", n
    settled(server, 0)


def test_a_client_that_has_its_id_is_not_told_it_again(server: Running, topic: str) -> None:
    last = get(server, f"/publish/{topic}")
    with visit(server, f"/events/itself/{topic}?heartbeat=0.05", f"Last-Event-ID: {last}") as raw:
        got = "".join(received(raw) for _ in range(5))
        assert "id: " not in got
        live = get(server, f"/publish/{topic}")
        while f"id: {live}\ndata: 0\n\n" not in got:
            got += received(raw)
    settled(server, 0)
