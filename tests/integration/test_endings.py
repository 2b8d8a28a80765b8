"""How streams end for each kind of client, and what middleware and clients see of it."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.servers import EVENT_SOURCE, OPENING, Body, Raw, Running, connect, eventually, serve
from werkzeug.test import create_environ

from vento_wsgi import Context, Event, StreamAborted, decode
from vento_wsgi.streaming.endings import FAREWELL
from vento_wsgi.streaming.stream import Stream

STREAM_WORKER = "gunicorn-StreamWorker"
GEVENT = (STREAM_WORKER, "gunicorn-gevent", "gunicorn-gevent_pywsgi", "gevent-pywsgi")
KNOWN = (*GEVENT, "gunicorn-gthread", "gunicorn-sync")
"""Servers whose connection a stream can break off itself."""

FIRST, LAST = b"data: first\n\n", b"data: last\n\n"
FETCH = "Accept: */*"
numbers = itertools.count()


@contextmanager
def served(server: str, tmp: Path, *options: str, **env: str) -> Iterator[Running]:
    with serve(server, "apps.endings:app", tmp=tmp, env=env, options=options) as running:
        yield running


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with served(request.param, tmp_path_factory.mktemp("endings")) as running:
        yield running


def on(*servers: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("running", servers, indirect=True)


def get(running: Running, path: str) -> Any:
    with connect(running, 30) as raw:
        raw.request("GET", path, "Connection: close")
        return json.loads(raw.read_all().data or b"null")


def reads(raw: Raw, wanted: bytes) -> bytes:
    got = b""
    while not got.endswith(wanted):
        piece = raw.read_piece()
        assert piece is not None, got
        got += piece.data
    return got


# A worker that stops.


WAYS = [
    ("GET", EVENT_SOURCE, "", "ends"),
    ("GET", "Accept: Text/Event-Stream", "", "ends"),
    ("GET", FETCH, "", "breaks"),
    ("GET", "Accept: text/event-stream, text/html, application/json", "", "breaks"),
    ("POST", EVENT_SOURCE, "", "finishes"),
    ("POST", FETCH, "", "finishes"),
    ("GET", FETCH, "?drain=end", "ends"),
    ("POST", FETCH, "?drain=end", "ends"),
    ("GET", EVENT_SOURCE, "?drain=break", "breaks"),
    ("POST", FETCH, "?drain=break", "breaks"),
    ("GET", EVENT_SOURCE, "?drain=finish", "finishes"),
    ("GET", FETCH, "?type=text/csv", "finishes"),
    ("GET", FETCH, "?type=text/csv&drain=break", "breaks"),
    ("GET", FETCH, "?type=text/csv&drain=end", "ends"),
]


def way(method: str, field: str, query: str) -> str:
    return f"{method} {field.partition(': ')[2]} {query}"


@pytest.mark.parametrize("parks", [False, True], ids=["generators", "subscriptions"])
def test_a_worker_that_stops_ends_each_stream_as_its_client_can_understand(
    tmp_path: Path, parks: bool
) -> None:
    ways = [w for w in WAYS if not (parks and "csv" in w[2])]
    settings = ("--graceful-timeout=30",)
    with (
        served(STREAM_WORKER, tmp_path, *settings, VENTO_DRAIN_WINDOW="0.2") as running,
        ExitStack() as stack,
    ):
        raws = []
        for method, field, query, _ in ways:
            raw = stack.enter_context(connect(running, 60))
            raw.request(method, f"{'/news' if parks else '/waits/all'}{query}", field)
            reads(raw, b"\n" if parks else FIRST)
            raws.append(raw)
        before = get(running, "/pid")
        running.process.send_signal(signal.SIGHUP)
        finishing = []
        for raw, (method, field, query, how) in zip(raws, ways):
            if how == "finishes":
                finishing.append(raw)
                continue
            body = raw.read_all()
            assert body.complete == (how == "ends"), way(method, field, query)
            if "csv" in query:
                assert body.data == b""
            else:
                assert body.data.startswith(b"retry: "), way(method, field, query)
                assert int(body.data.split()[1]) >= 1000
                assert b"\n\n" not in body.data, "a client could take it for an event"
        eventually(lambda: get(running, "/pid") != before, 60)
        if parks:
            return
        for raw in finishing:  # they are still there: the old worker makes them whole
            raw.sock.settimeout(0.01)
            with pytest.raises(TimeoutError):
                raw.read_piece()


def test_streams_that_finish_are_whole_if_they_do_so_in_time_and_else_break_off(
    tmp_path: Path,
) -> None:
    with (
        served(STREAM_WORKER, tmp_path, "--graceful-timeout=4", VENTO_DRAIN_WINDOW="0") as running,
        connect(running, 60) as quick,
        connect(running, 60) as slow,
        connect(running, 60) as subscriber,
    ):
        quick.request("POST", "/until-drained")
        slow.request("POST", "/waits/slow")
        subscriber.request("POST", "/news")
        for raw in (quick, slow):
            reads(raw, FIRST)
        reads(subscriber, b"\n")
        running.process.terminate()
        assert quick.read_all() == Body(LAST, complete=True)
        assert slow.read_all() == Body(b"", complete=False)
        assert not subscriber.read_all().complete
        assert running.process.wait(60) == 0


@on(STREAM_WORKER, "gunicorn-gevent")
@pytest.mark.parametrize("path", ["/waits/never", "/news"])
@pytest.mark.parametrize(
    ("method", "field", "drain", "complete"),
    [
        ("GET", EVENT_SOURCE, "", True),
        ("GET", FETCH, "", False),
        ("POST", EVENT_SOURCE, "", False),
        ("POST", FETCH, "&drain=end", True),
        ("GET", EVENT_SOURCE, "&drain=break", False),
    ],
)
def test_a_deadline_follows_the_same_rule(
    running: Running, path: str, method: str, field: str, drain: str, complete: bool
) -> None:
    with connect(running, 30) as raw:
        raw.request(method, f"{path}?deadline=0.3{drain}", field)
        assert raw.read_all().complete == complete


def test_a_drain_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='drain is "end", "break" or "finish"'):
        Context(create_environ()).sse(iter(()), drain="stop")  # type: ignore[arg-type]


# What clients read that are not EventSource.


@on(STREAM_WORKER, "gunicorn-gevent")
def test_no_empty_line_is_anything_but_an_event(running: Running, name: str) -> None:
    with connect(running, 30) as raw:
        raw.request("GET", f"/waits/{name}", FETCH)
        assert reads(raw, FIRST) == OPENING + FIRST
        get(running, f"/go/{name}")
        assert raw.read_all() == Body(LAST, complete=True)
    with connect(running, 30) as raw:
        raw.request("POST", f"/waits/{name}")
        assert raw.read_all() == Body(b":\n" + FIRST + LAST, complete=True)


@on(STREAM_WORKER, "gunicorn-gevent", "gunicorn-gthread", "waitress", "wsgiref")
def test_an_error_event_is_json_that_clients_know(running: Running, name: str) -> None:
    get(running, f"/go/{name}")
    with connect(running, 30) as raw:
        raw.request("POST", f"/fails/{name}")
        body = raw.read_all()
    error = list(decode([body.data]))[-1]
    assert error.event == "error"
    told = json.loads(error.data or "")
    assert told["type"] == "error"
    assert told["error"] == {"type": "server_error", "message": told["errorText"]}
    assert "model" not in body.data.decode()
    if running.server != "wsgiref":
        assert not body.complete


def test_a_client_has_time_to_read_the_error_before_the_break() -> None:
    def failing() -> Iterator[Event]:
        yield Event("first")
        raise RuntimeError("broken")

    response = Context(create_environ()).sse(failing())
    stream = response.get_app_iter(create_environ())
    assert isinstance(stream, Stream)
    while b"event: error" not in next(iter(stream)):
        pass
    start = time.monotonic()
    with pytest.raises(StreamAborted):
        next(iter(stream))
    assert time.monotonic() - start >= FAREWELL * 0.9
    stream.close()


@on(STREAM_WORKER, "gunicorn-gevent", "gunicorn-gthread")
@pytest.mark.parametrize("how", ["whole", "cut", "alone", "none", "nothing else", "half"])
def test_a_byte_order_mark_costs_no_event(running: Running, how: str) -> None:
    with connect(running, 30) as raw:
        raw.request("GET", f"/marked/{how.replace(' ', '%20')}")
        body = raw.read_all()
    assert body.complete
    events = [event.data for event in decode([body.data]) if event.data is not None]
    assert events == ([] if how in ("nothing else", "half") else ["first", "second"])


# What middleware sees.


@on(*KNOWN)
def test_middleware_sees_no_error_of_a_failure_that_was_logged(running: Running, name: str) -> None:
    get(running, f"/go/{name}")
    before = len(running.log())
    for kind in ("text/event-stream", "text/plain"):
        with connect(running, 30) as raw:
            raw.request("GET", f"/fails/{name}?watched&type={kind}")
            assert not raw.read_all().complete
    with connect(running, 30) as raw:  # its end is the end of the connection
        raw.send(f"GET /fails/{name}?watched&type=text/plain HTTP/1.0\r\n\r\n".encode())
        raw.read_head()
        complete = raw.read_all().complete
        assert not complete or running.server not in (STREAM_WORKER, "gunicorn-gevent")
    assert [line for line in get(running, "/seen") if "fails" in line] == []
    eventually(lambda: running.log()[before:].count("RuntimeError: the model is gone") == 3)
    assert running.log()[before:].count("Traceback") == 3


@on(*GEVENT)
@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_a_departure_is_noticed_through_middleware_and_is_no_error(
    running: Running, name: str, kind: str
) -> None:
    before = get(running, "/seen").count("disconnected")
    with connect(running, 30) as raw:
        raw.request("GET", f"/waits/{name}?watched&type={kind}")
        reads(raw, FIRST)
    eventually(lambda: get(running, "/seen").count("disconnected") == before + 1)
    assert [line for line in get(running, "/seen") if "out of" in line] == []


def test_a_stream_that_fails_at_once_is_an_error_of_its_own_through_middleware(
    tmp_path: Path,
) -> None:
    (tmp_path / "first.py").write_text(FAILS_AT_ONCE)
    with (
        serve(STREAM_WORKER, "first:app", cwd=tmp_path, tmp=tmp_path) as running,
        connect(running, 30) as raw,
    ):
        head = raw.request("GET", "/fails")
        assert head.status == 500
        assert head.headers["Content-Type"] == "application/problem+json"
        assert json.loads(raw.read_all().data)["status"] == 500
        assert running.log().count("at once") == 1


FAILS_AT_ONCE = """
from vento_wsgi import create_app, create_router

router = create_router()

@router.get("/")
def index(ctx):
    return ctx.text("")

@router.get("/fails")
def fails(ctx):
    def chunks():
        raise RuntimeError("at " + "once")
        yield
    return ctx.stream(chunks(), "text/plain")

inner = create_app()
inner.use(router)

def app(environ, start_response):
    body = inner(environ, lambda *args: start_response(*args))
    try:
        yield from body
    finally:
        body.close()
"""


@on(*GEVENT)
def test_what_a_source_keeps_by_thread_ends_with_it(running: Running) -> None:
    for user in ("ada", "bob", "eve"):
        with connect(running, 30) as raw:
            raw.request("GET", f"/local?user={user}")
            assert raw.read_all() == Body(b"nobody\ndone\n", complete=True)


# Writes have limits.


@contextmanager
def deaf(running: Running, path: str) -> Iterator[socket.socket]:
    """A client that asks, and reads nothing."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.settimeout(60)
        sock.connect((running.host, running.port))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        yield sock


def read_to_the_end(sock: socket.socket) -> int:
    """Read all; how many bytes there were. Raises ConnectionResetError after a reset."""
    size = 0
    while data := sock.recv(1 << 20):
        size += len(data)
    return size


def held(running: Running) -> int:
    """Connections to the server that it has not closed."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        found += int(local.partition(":")[2], 16) == running.port and state == "01"
    return found


@pytest.mark.parametrize("path", ["/large/bytes", "/plain/list", "/plain/generator"])
def test_a_client_that_takes_nothing_of_any_response_is_reset(tmp_path: Path, path: str) -> None:
    with served(STREAM_WORKER, tmp_path, VENTO_SEND_TIMEOUT="0.5") as running:
        with deaf(running, path) as sock:
            eventually(lambda: held(running) == 0, 60)
            with pytest.raises(ConnectionResetError):
                read_to_the_end(sock)
        assert "Traceback" not in running.log()


def test_a_client_that_reads_slowly_is_served(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(served(server, tmp_path, VENTO_SEND_TIMEOUT="2"))
            for server in (STREAM_WORKER, "gunicorn-gevent")
        ]
        socks = [
            stack.enter_context(deaf(running, "/large/stream?send_timeout=2"))
            for running in servers
        ]
        until = time.monotonic() + 6
        while time.monotonic() < until:  # a piece of 256 KB takes longer than the limit
            for sock in socks:
                assert sock.recv(4096)
            time.sleep(0.05)
        for running in servers:
            assert "stalled" not in get(running, "/seen")


def test_many_that_read_nothing_of_one_large_body_hold_no_copies_of_it(tmp_path: Path) -> None:
    clients, size = 40, 20 * 1024 * 1024
    with served(STREAM_WORKER, tmp_path) as running, ExitStack() as stack:
        before = get(running, "/memory")
        socks = [stack.enter_context(deaf(running, "/large/bytes")) for _ in range(clients)]
        for sock in socks:
            assert sock.recv(1)
        grown = get(running, "/memory") - before
        assert grown < clients * size / 4, grown
        for sock in socks[:2]:
            sock.shutdown(socket.SHUT_WR)
            assert read_to_the_end(sock) > size


@on(STREAM_WORKER, "gunicorn-gevent")
def test_a_deadline_holds_while_one_large_item_is_written(running: Running) -> None:
    before = get(running, "/seen").count("deadline")
    with deaf(running, "/large/stream?deadline=0.5") as sock:

        def is_over() -> bool:
            with suppress(ConnectionResetError):
                sock.recv(2048)
            return bool(get(running, "/seen").count("deadline") > before)

        eventually(is_over, 60)


# Files.


@on(STREAM_WORKER)
@pytest.mark.parametrize(
    "kind", ["buffered", "unbuffered", "untold", "unflushed", "temporary", "gzip"]
)
def test_a_file_is_sent_from_where_it_was_read_to(running: Running, kind: str) -> None:
    with connect(running, 30) as raw:
        raw.request("GET", f"/files/{kind}")
        assert raw.read_all() == Body((b"0123456789" * 10_000)[4:], complete=True)
        assert raw.request("GET", "/pid").status == 200
