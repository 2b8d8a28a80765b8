"""Subscriptions on real servers: parked sockets of StreamWorker, streams of stock gevent.

The same is promised on both, except for what a waiting subscriber costs.
"""

import json
import logging
import re
import resource
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import gevent
import pytest
from support import servers
from support.logs import RedisServer
from support.servers import EVENT_SOURCE, Raw, connect, eventually, serve
from test_engine import Chunked, Server, certificate, is_reset, target
from werkzeug.test import EnvironBuilder, run_wsgi_app

from vento_wsgi import Broker, Context, Event, create_app, create_router
from vento_wsgi.broker.body import SubscriptionBody
from vento_wsgi.broker.frames import Frame
from vento_wsgi.broker.parked import ParkedSubscriber
from vento_wsgi.exceptions import BrokerError
from vento_wsgi.sse import decode
from vento_wsgi.streaming.options import StreamOptions

__all__ = ["certificate"]

HERE = Path(__file__).resolve().parents[1]
STREAM_WORKER, GEVENT = "gunicorn-StreamWorker", "gunicorn-gevent"
WINDOW = 0.5  # seconds
CONFIG = """
def post_request(worker, req, environ, resp):
    worker.log.info("hook: %s?%s %s", req.path, req.query, resp.sent if resp else None)
"""

numbers = count()
on_stream_worker = pytest.mark.parametrize("server", [STREAM_WORKER], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """Enough of them for the clients here and for the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def started(name: str, tmp: Path, *options: str, **environ: str) -> Iterator[Server]:
    environ = {"VENTO_DRAIN_WINDOW": str(WINDOW), "PYTHONDEVMODE": "1", **environ}
    options = ("--worker-connections=5000", *options)
    with serve(name, "apps.slots:app", cwd=HERE, tmp=tmp, options=options, env=environ) as running:
        yield Server(running, lambda: connect(running))


@pytest.fixture(scope="module", params=[STREAM_WORKER, GEVENT])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("slots")) as server:
        yield server
        assert "Traceback" not in server.running.log().replace("told to fail", "")


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Server]:
    """A StreamWorker that logs accesses and has a hook for each request."""
    (tmp_path / "conf.py").write_text(CONFIG)
    log = tmp_path / "access"
    options = (f"--access-logfile={log}", "--access-logformat=%(U)s?%(q)s %(s)s %(B)s")
    with started(STREAM_WORKER, tmp_path, *options, f"--config={tmp_path}/conf.py") as server:
        yield server


@pytest.fixture
def name() -> str:
    """A topic, and the name of a stream, that no other test has."""
    return f"topic{next(numbers)}"


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


# What a subscriber is sent.


def test_a_subscription_opens_at_once_with_a_comment_and_where_it_stands(
    server: Server, name: str
) -> None:
    with subscribed(server, f"/events/{name}") as source:
        mark = source.opened()
        assert b"text/event-stream" in source.head
        assert b"X-Accel-Buffering: no" in source.head
        assert publish(server, name)[0] != mark.id


def test_each_event_leaves_at_once_in_a_chunk_of_its_own(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.opened()
        for n in range(5):
            (given,) = publish(server, name, start=n)
            assert source.next() == [Event(str(n), id=given)]


@on_stream_worker
def test_an_event_is_one_send_and_one_packet(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.raw.read_head()
        source.raw.read_piece()
        (given,) = publish(server, name, size=50)
        block = f"id: {given}\ndata: {'.' * 49}0\n\n".encode()
        source.raw.sock.settimeout(30)
        assert source.raw.sock.recv(1 << 16).endswith(b"%X\r\n%b\r\n" % (len(block), block))


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_client_that_comes_back_has_what_it_missed(server: Server, name: str, how: str) -> None:
    ids = publish(server, name, count=300)
    path = f"/events/{name}"
    fields = [f"Last-Event-ID: {ids[9]}"] if how == "header" else []
    with subscribed(
        server, path if fields else target(path, lastEventId=ids[9]), *fields
    ) as source:
        source.response.head()
        events = source.until("299")
        assert [event.id for event in events] == ids[10:]
        publish(server, name, start=300)
        assert source.next()[0].data == "300"


def test_a_client_that_was_away_for_too_long_is_told(server: Server, name: str) -> None:
    (last,) = publish(server, name)
    with subscribed(server, f"/events/{name}", "Last-Event-ID: unknown") as source:
        source.response.head()
        publish(server, name, start=1)
        gap, event = source.until("1")
        assert (gap.event, gap.id, event.data) == ("gap", last, "1")


@pytest.mark.parametrize("id", ["x" * 1025, "%01", "a%0Ab", "%7F"])
@pytest.mark.parametrize("how", ["header", "query"])
def test_an_id_that_nobody_can_have_sent_is_a_bad_request(
    server: Server, name: str, how: str, id: str
) -> None:
    if how == "header" and "%" in id:
        return  # no server lets it pass
    with server.connect() as raw:
        if how == "header":
            assert raw.request("GET", f"/events/{name}", f"Last-Event-ID: {id}").status == 400
        else:
            assert raw.request("GET", f"/events/{name}?lastEventId={id}").status == 400


def test_topics_and_prefixes(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name},{name}b") as source:
        source.opened()
        publish(server, f"{name}c", start=1)
        publish(server, f"{name}b", start=2)
        publish(server, name, start=3)
        assert numbers_of(source.until("3")) == [2, 3]


# What it costs.


@on_stream_worker
def test_a_parked_subscriber_has_no_greenlet_and_nothing_of_its_request(
    server: Server, name: str
) -> None:
    settled(server)
    before = parked(server)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(subscribed(server, f"/events/{name}")).opened()
        now = settled(server, 50)
        del now["sinks"], before["sinks"]
        assert abs(now.pop("greenlet") - before.pop("greenlet")) < 5
        assert now == {**before, "ParkedSubscriber": before["ParkedSubscriber"] + 50}
    settled(server)
    eventually(lambda: parked(server)["ParkedSubscriber"] == before["ParkedSubscriber"])


def test_thousands_that_come_and_vanish_leave_nothing(server: Server, name: str) -> None:
    number = 2000 if server.name == STREAM_WORKER else 400
    come_and_vanish(server, name, 5, 0)  # what is made once
    settled(server)
    before = server.census()
    for crowd in range(0, number, 400):
        come_and_vanish(server, name, 400, crowd)
    settled(server)

    def left() -> Any:
        now = server.census()
        if server.name == GEVENT:  # greenlets of sources, kept
            now["greenlet"] = now["a watcher: callback"] = 0
        return now - before

    eventually(lambda: not left(), explain=lambda: str(left()))


def come_and_vanish(server: Server, topic: str, number: int, crowd: int) -> None:
    request = f"GET /events/{topic} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with ExitStack() as stack:
        socks = []
        for _ in range(number):
            sock = socket.create_connection((server.running.host, server.running.port), 10)
            socks.append(stack.enter_context(sock))
            sock.sendall(request)
        for sock in socks:
            got = b""
            while b"\nid: " not in got:
                data = sock.recv(1 << 16)
                assert data, got
                got += data
            if crowd % 800:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# How it ends.


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_is_noticed(server: Server, name: str, reset: bool) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        publish(server, name)
        source.next()
        if reset:
            linger = struct.pack("ii", 1, 0)
            source.raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    ending = server.ending(name)
    assert ending["reason"] == "disconnected"
    assert ending["chunks"] >= 2
    settled(server)


def test_a_client_that_closes_its_side_alone_is_still_there(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.opened()
        source.raw.sock.shutdown(socket.SHUT_WR)
        assert source.response.next() == b":\n"
        publish(server, name)
        assert source.next()[0].data == "0"
    publish(server, name, count=2)  # which tells: it was asked already
    settled(server)


def test_more_that_a_client_sends_is_not_its_departure(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        source.raw.ask("GET", "/hello")
        eventually(lambda: server.census()["clock's suspects"] == 1)
        for n in range(3):
            publish(server, name, start=n)
            assert source.next()[0].data == str(n)
    assert server.ending(name)["reason"] == "disconnected"


def test_the_end_arrives_though_the_client_has_sent_more(server: Server, name: str) -> None:
    path = target(f"/events/{name}", name=name, deadline=0.5)
    with subscribed(server, path) as source:
        source.opened()
        source.raw.ask("GET", "/hello")
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "deadline"


def test_it_ends_cleanly_at_its_deadline(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name, deadline=0.3)) as source:
        source.opened()
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "deadline"
    settled(server)


def test_a_closed_broker_ends_it_cleanly(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        publish(server, name)
        source.next()
        server.get("/close")
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "exhausted"


def stuck(server: Server, name: str, **query: object) -> Any:
    """A subscriber that does not read, with little room in the kernel."""
    path = target(f"/events/{name}", name=name, sndbuf=4096, **query)
    return subscribed(server, path, buffer=4096)


def test_a_client_that_does_not_read_is_reset(server: Server, name: str) -> None:
    with stuck(server, name, send_timeout=0.5) as source:
        settled(server, 1)
        publish(server, name, count=20, size=10_000)
        ending = server.ending(name)
        assert ending["reason"] == "stalled"
        assert is_reset(source.raw)
    settled(server)


@on_stream_worker
def test_a_client_that_is_too_slow_is_sent_away_and_loses_nothing(
    server: Server, name: str
) -> None:
    with stuck(server, name, backlog=10) as source:
        settled(server, 1)
        publish(server, name, count=100, size=5000)
        assert server.ending(name)["reason"] == "stalled"
        assert is_reset(source.raw)
    settled(server)


def test_drop_oldest_keeps_a_slow_client_and_tells_it(server: Server, name: str) -> None:
    with stuck(server, name, backlog=10, slow="drop_oldest") as source:
        settled(server, 1)
        publish(server, name, count=200, size=5000)
        source.opened()
        events = source.until("199")
        gaps = [event.event == "gap" for event in events]
        numbers = [None if gap else numbers_of([event])[0] for gap, event in zip(gaps, events)]
        assert any(gaps)
        assert gaps.count(True) == 1 or server.name == GEVENT
        for before, after in pairwise(numbers):  # with what is missing in its place
            assert before is None or after is None or after == before + 1
        assert numbers[-10:] == list(range(190, 200))
        ids = [int((event.id or "").rpartition("-")[2]) for event in events]
        assert ids == sorted(ids)
        publish(server, name, start=200)
        assert numbers_of(source.next()) == [200]


def test_latest_keeps_the_newest_of_each_name(server: Server, name: str) -> None:
    with stuck(server, name, backlog=2, slow="latest") as source:
        settled(server, 1)
        for n in range(0, 100, 2):
            publish(server, name, start=n, size=5000, event="a")
            publish(server, name, start=n + 1, size=5000, event="b")
        source.opened()
        events = source.until("99")
        assert [event.event for event in events[-2:]] == ["a", "b"]
        assert numbers_of(events[-2:]) == [98, 99]
        assert len(events) < 100
        assert "gap" not in {event.event for event in events}


@on_stream_worker
def test_a_slow_client_that_reads_again_has_every_event(server: Server, name: str) -> None:
    with stuck(server, name) as source:
        settled(server, 1)
        ids = publish(server, name, count=300, size=3000)
        source.opened()
        assert [event.id for event in source.until("299")] == ids
        (given,) = publish(server, name)
        assert [event.id for event in source.next()] == [given]


@on_stream_worker
def test_clients_that_are_stuck_delay_no_other(server: Server, name: str) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            path = target(f"/events/{name}", sndbuf=4096, slow="latest", backlog=100)
            stack.enter_context(subscribed(server, path, buffer=4096))
        sources = [stack.enter_context(subscribed(server, f"/events/{name}")) for _ in range(450)]
        for source in sources:
            source.opened()
        settled(server, 500)
        ids = publish(server, name, count=50, size=1000)
        for source in sources:
            assert [event.id for event in source.until("49")] == ids
        assert parked(server)["sinks"] == 500
    settled(server)


# Who is told.


def test_on_end_is_told_once_and_may_wait_and_fail(server: Server, name: str) -> None:
    path = target(f"/events/{name}", name=name, says=f"{name}s", fails=1, deadline=0.3)
    with subscribed(server, f"/events/{name}s") as other:
        other.opened()
        with subscribed(server, path) as source:
            source.opened()
            publish(server, name)
            size = sum(len(event.encode()) for event in source.next())
            assert source.response.next() is None
        assert other.next()[0].data == "left"
    ending = server.ending(name)
    assert ending["chunks"] == 2
    assert size < ending["bytes"] < size + 50
    eventually(lambda: f"on_end of {name}" in server.running.log())
    server.running.log_path.write_text("")  # of tracebacks, and this one is meant


def test_what_is_to_run_at_the_close_runs_once(server: Server, name: str) -> None:
    for how in ("leaves", "deadline", "head"):
        query: dict[str, object] = {"closes": f"{name}{how}"}
        if how == "deadline":
            query["deadline"] = 0.3
        method = "HEAD" if how == "head" else "GET"
        with subscribed(server, target(f"/events/{name}", **query), method=method) as source:
            if how == "head":
                source.raw.read_head()
            else:
                source.opened()
            if how == "deadline":
                source.response.rest()
        eventually(lambda: server.notes(f"{name}{how}")["left"] == ["closed"])  # noqa: B023
    settled(server)
    assert server.notes(f"{name}leaves")["left"] == ["closed"]


def test_a_place_among_the_streams_is_free_again(server: Server, name: str) -> None:
    path = f"/limited/events/{name}"
    for _ in range(2):

        def is_free() -> bool:
            with server.connect() as raw:
                return raw.request("GET", path, "Connection: close").status == 200

        eventually(is_free)
        eventually(lambda: parked(server)["sinks"] == 0)
        with ExitStack() as stack:
            opened: list[Source] = []

            def enters() -> bool:
                source = stack.enter_context(subscribed(server, path))
                head = source.raw.read_head()
                opened.append(source)  # noqa: B023
                return head.status == 200

            eventually(enters)
            assert not is_free()


def test_gunicorn_logs_each_access_once_with_the_bytes_of_its_body(
    logged: Server, name: str, tmp_path: Path
) -> None:
    with subscribed(logged, target(f"/events/{name}", deadline=0.3, name=name)) as source:
        source.opened()
        publish(logged, name, count=3)
        source.response.rest()
    size = logged.ending(name)["bytes"]
    with subscribed(logged, f"/events/{name}", "Last-Event-ID: x") as source:
        source.response.head()
    asked = f"/events/{name}"

    def lines() -> list[str]:
        return [line for line in (tmp_path / "access").read_text().split("\n") if asked in line]

    eventually(lambda: len(lines()) == 2)
    assert lines()[0].endswith(f" 200 {size}")
    hooks = re.findall(rf"hook: {asked}.*", logged.running.log())
    eventually(lambda: len(re.findall(rf"hook: {asked}\?", logged.running.log())) == 2)
    assert hooks[0].endswith(str(size))


def test_a_client_that_stops_within_the_replay_is_told_of_once(
    logged: Server, name: str, tmp_path: Path
) -> None:
    ids = publish(logged, name, count=900, size=5000)
    query = {"name": name, "send_timeout": 0.5, "closes": f"{name}c", "sndbuf": 4096}
    path = target(f"/events/{name}", lastEventId=ids[0], **query)
    with subscribed(logged, path, buffer=4096) as source:
        assert logged.ending(name)["reason"] == "stalled"
        assert is_reset(source.raw)
    assert logged.notes(f"{name}c")["left"] == ["closed"]
    settled(logged)
    assert len(re.findall(rf"hook: /events/{name}\?", logged.running.log())) == 1
    access = (tmp_path / "access").read_text()
    assert len(re.findall(rf"/events/{name}\?", access)) == 1


# Silence.


def test_silence_is_broken_by_comments(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", heartbeat=0.3)) as source:
        source.opened()
        publish(server, f"{name}other")
        for _ in range(2):
            assert source.response.next() == b":\n"


def test_a_heartbeat_of_ones_own(server: Server, name: str) -> None:
    path = target(f"/events/{name}", heartbeat=0.3, beat=":beat%0A%0A")
    with subscribed(server, path) as source:
        source.opened()
        for _ in range(2):
            beat = source.response.next()
            assert beat is not None
            assert beat.startswith(b":beat\n\n")


# What is not parked.


@on_stream_worker
@pytest.mark.parametrize("how", ["HTTP/1.0", "length", "wrapped"])
def test_what_cannot_be_parked_is_streamed(server: Server, name: str, how: str) -> None:
    settled(server)
    before = parked(server)["ParkedSubscriber"]
    version = "1.0" if how == "HTTP/1.0" else "1.1"
    query: dict[str, object] = {"length": 10_000} if how == "length" else {how[:7]: 1}
    with server.connect() as raw:
        path = target(f"/events/{name}", **query)
        raw.send(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        raw.read_head()
        got = b""
        while b"id: " not in got:
            piece = raw.read_piece()
            assert piece is not None
            got += piece.data
        settled(server, 1)
        assert parked(server)["ParkedSubscriber"] == before
        publish(server, name, size=50)
        piece = raw.read_piece()
        assert piece is not None
        assert piece.data.endswith(b".0\n\n")
    publish(server, name, count=2)  # a body of a known length has no room to ask the client
    settled(server)


@on_stream_worker
def test_head_subscribes_to_nothing(server: Server, name: str) -> None:
    with server.connect() as raw:
        head = raw.request("HEAD", f"/events/{name}")
        assert head.status == 200
        assert head.headers["Content-Type"].startswith("text/event-stream")
        assert raw.request("GET", "/hello").status == 200, "the connection goes on"
    settled(server)


def test_tls_is_streamed(
    certificate: tuple[Path, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, issued = certificate
    context = ssl.create_default_context(cafile=str(issued))

    def connect_securely(running: Any, timeout: float = 10) -> Raw:
        raw = connect(running, timeout)
        raw.sock = context.wrap_socket(raw.sock, server_hostname=running.host)
        return raw

    monkeypatch.setattr(servers, "connect", connect_securely)
    options = (f"--keyfile={key}", f"--certfile={issued}")
    with started(STREAM_WORKER, tmp_path, *options) as plain:
        server = Server(plain.running, lambda: connect_securely(plain.running))
        with server.connect() as raw, Chunked(raw) as response:
            raw.ask("GET", f"/events/{name}")
            response.head()
            opening = response.next() or b""
            while b"\nid: " not in opening:
                opening += response.next() or b""
            publish(server, name)
            assert (response.next() or b"").endswith(b"data: 0\n\n")
            assert parked(server)["ParkedSubscriber"] == 0


# How a worker stops.


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_stops_asks_all_back_over_a_window(
    tmp_path: Path, name: str, how: signal.Signals
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    grace = "--graceful-timeout=20"
    with started(STREAM_WORKER, tmp_path, grace, URL=url) as server, ExitStack() as stack:
        old = server.get("/pid")
        sources = [
            stack.enter_context(subscribed(server, target(f"/events/{name}", closes=name)))
            for _ in range(60)
        ]
        marks = [source.opened() for source in sources]
        ids = publish(server, name, count=3)
        told = sources[-1].until("2")  # it is told after all others
        server.running.process.send_signal(how)
        retries = []
        for source in sources:
            *events, last = source.rest()
            if source is sources[-1]:
                events = [*told, *events]
            assert [event.id for event in events] == ids
            assert last.retry is not None
            assert last.id is None
            retries.append(last.retry)
            assert source.raw.sock.recv(1) == b""
        assert max(retries) <= 1000 + WINDOW * 1000
        assert len(set(retries)) > 10
        if how is signal.SIGTERM:
            assert server.running.process.wait(60) == 0
        else:
            eventually(lambda: server.get("/pid") != old)
            publish(server, name, start=3)
            for after, wanted in ((ids[1], [2, 3]), (marks[0].id, [0, 1, 2, 3])):
                with subscribed(server, f"/events/{name}", f"Last-Event-ID: {after}") as source:
                    source.response.head()
                    assert numbers_of(source.until("3")) == wanted
        assert "Traceback" not in server.running.log()


def test_a_worker_that_has_no_time_asks_all_back_at_once(tmp_path: Path, name: str) -> None:
    grace = "--graceful-timeout=5"
    with (
        started(STREAM_WORKER, tmp_path, grace, VENTO_DRAIN_WINDOW="60") as server,
        ExitStack() as stack,
    ):
        sources = [stack.enter_context(subscribed(server, f"/events/{name}")) for _ in range(60)]
        for source in sources:
            source.opened()
        server.running.process.terminate()
        retries = [event.retry for source in sources for event in source.rest()]
        assert len(retries) == 60
        assert max(retry or 0 for retry in retries) > WINDOW * 1000


# When the log fails.


def test_a_redis_that_goes_away_ends_nobody_and_refuses_newcomers(
    tmp_path: Path, name: str
) -> None:
    redis = RedisServer()
    redis.start()
    try:
        with (
            started(STREAM_WORKER, tmp_path, URL=redis.url) as server,
            subscribed(server, target(f"/events/{name}", heartbeat=0.3)) as source,
        ):
            source.opened()
            (given,) = publish(server, name)
            assert source.until("0")[0].id == given
            redis.kill()
            assert source.response.next() == b":\n"
            redis.start()
            publish(server, name, start=1)
            assert numbers_of(source.until("1")) == [1]
    finally:
        redis.stop()


def test_a_log_that_fails_before_a_subscription_is_an_error_and_within_it_an_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker("memory://")
    first = broker.publish("a", "x")
    source = broker._opened().source()

    def fails(*_: object) -> Any:
        raise BrokerError("the log is gone")

    subscription = broker.subscribe("a", after=first)
    broker.publish("a", "y")
    monkeypatch.setattr(source, "read", fails)
    ours, theirs = socket.socketpair()
    sent: list[bytes] = []
    ended: list[str] = []
    with ours:
        policies = StreamOptions(on_end=lambda ending: ended.append(str(ending.reason)))
        environ = EnvironBuilder(path="/events").get_environ()
        feed = SubscriptionBody(
            subscription,
            lambda: None,  # type: ignore[arg-type, return-value]
            lambda: ended.append("closed"),
            environ,
            policies,
        )
        with caplog.at_level(logging.ERROR):
            feed.park(sent.append, theirs.detach, lambda size: ended.append(str(size)))
        gevent.sleep(0)
        assert ours.recv(1) == b""
    (data,) = sent
    assert data.startswith(b":\nretry: 3000\nevent: error\n")
    assert ended == ["closed", str(len(data)), "failed"]
    assert "the log is gone" in caplog.text
    assert broker._opened().told()._all() == ()
    broker.close()


def test_what_was_read_from_the_log_is_not_sent_again() -> None:
    broker = Broker("memory://")
    source = broker._opened().source()
    subscription = broker.subscribe("a")
    frames = [Frame(n, b"id: %d\ndata: x\n\n" % n) for n in range(1, 6)]
    ours, theirs = socket.socketpair()
    with ours:
        slot = ParkedSubscriber(subscription, StreamOptions(), "/events", None, None, None, "end")
        slot.join(broker._opened().told())
        slot.put(frames[2])
        slot.put(frames[3])
        slot.open(theirs.detach(), 3)
        for each in (frames[1], frames[3], frames[4], frames[4]):
            slot.put(each)
        assert ours.recv(1 << 16) == frames[3].chunk + frames[4].chunk
        slot.dismiss()
        assert ours.recv(1 << 16) == b"0\r\n\r\n"
        assert ours.recv(1) == b""
    assert source.last() == 0
    broker.close()


def test_wsgiref_finds_nothing_wrong_with_a_subscription() -> None:
    broker = Broker("memory://")
    router = create_router()

    @router.get("/")
    def events(ctx: Context) -> Any:
        return ctx.sse(broker.subscribe("a", after=ctx.last_event_id))

    app = create_app()
    app.use(router)
    after = broker.publish("a", "0")
    broker.publish("a", "1")
    environ = EnvironBuilder().get_environ()
    environ["HTTP_LAST_EVENT_ID"] = after
    body, status, headers = run_wsgi_app(validator(app), environ)
    assert status == "200 OK"
    assert headers["Content-Type"].startswith("text/event-stream")
    got = b""
    while b"data: 1\n\n" not in got:
        got += next(iter(body))
    body.close()  # type: ignore[attr-defined]
    assert broker._opened().told()._all() == ()
    broker.close()
