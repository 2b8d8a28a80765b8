"""StreamGuard around applications that know nothing of it, on real servers.

apps/guarded.py has five frameworks, each bare and guarded. What is no stream must be the same
from both, byte for byte; what is one must have the endings of a Stream.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.servers import (
    COMMENT,
    EVENT_SOURCE,
    OPENING,
    Body,
    Chunked,
    Head,
    Raw,
    Running,
    connect,
    eventually,
    serve,
)

from vento_wsgi.streaming.endings import FAILED

STREAM_WORKER = "gunicorn-StreamWorker"
GEVENT = (STREAM_WORKER, "gunicorn-gevent")
FRAMEWORKS = ("flask", "django", "bottle", "falcon", "pyramid")
FIRST = b"data: first\n\n"

numbers = count()
of_each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
under_gevent = pytest.mark.parametrize("server", GEVENT, indirect=True)


@pytest.fixture(scope="module", params=[*GEVENT, "gunicorn-gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("guarded")
    env = {"JOURNAL": str(tmp / "journal"), "FILES": str(tmp)}
    with serve(request.param, "apps.guarded:app", tmp=tmp, env=env) as running:
        yield running


class Told:
    """A name for the requests of a test, and what the application has noted of them."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.query = f"name{next(numbers)}"
        self.field = f"X-Name: {self.query}"

    def __call__(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(ask(self.server, f"/tell?{self.query}")[1].data)
        return told

    def wait(self, what: str, *expected: object) -> None:
        eventually(lambda: self()[what] == [*expected], explain=lambda: str(self()))


@pytest.fixture
def told(server: Running) -> Told:
    return Told(server)


def ask(server: Running, path: str, *fields: str, method: str = "GET") -> tuple[Head, Body]:
    with connect(server) as raw:
        return raw.request(method, path, *fields), raw.read_all()


def reads(raw: Raw, wanted: bytes) -> bytes:
    """Read until `wanted` has come."""
    got = b""
    while wanted not in got:
        piece = raw.read_piece()
        assert piece is not None, got
        got += piece.data
    return got


# Ordinary responses.


def whole(server: Running, path: str, *fields: str, method: str = "GET") -> bytes:
    """All that comes for a request, and for one behind it, but for the time."""
    with connect(server) as raw:
        raw.ask(method, path, *fields)
        raw.ask("GET", "/bare/flask/hello", "Connection: close")
        return re.sub(rb"\r\n(Date|Last-Modified|Expires): [^\r]+", b"", raw.read_rest())


def assert_same(server: Running, path: str, *fields: str, method: str = "GET") -> bytes:
    bare = whole(server, f"/bare{path}", *fields, method=method)
    assert whole(server, f"/guarded{path}", *fields, method=method) == bare
    return bare


@of_each_framework
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ["hello", "none", "file", "sized"])
def test_what_is_no_stream_is_the_same_byte_for_byte(
    server: Running, framework: str, name: str, method: str
) -> None:
    assert assert_same(server, f"/{framework}/{name}", method=method).endswith(b"Hello, World!")


@of_each_framework
def test_head_of_a_stream_and_a_wrong_path_are_the_same(server: Running, framework: str) -> None:
    assert_same(server, f"/{framework}/ready", method="HEAD")
    bare, guarded = (ask(server, f"/{at}/{framework}/no/such")[0] for at in ("bare", "guarded"))
    assert bare.status == guarded.status == 404
    assert [*bare.headers.keys()] == [*guarded.headers.keys()]


def test_what_was_not_modified_and_a_range_are_the_same(server: Running) -> None:
    assert b" 304 " in assert_same(server, "/flask/file", 'If-None-Match: "same"')
    assert b" 206 " in assert_same(server, "/flask/file", "Range: bytes=5-9")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "write",
            "write-sized",
            "late-sized",
            "error",
            "tuple",
            "file",
            "memory",
            "none",
            "fails",
        ),
        "where?size=15",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_wsgi_allows_is_the_same(server: Running, name: str, method: str) -> None:
    assert_same(server, f"/plain/{name}", method=method)


def test_an_application_without_a_head_is_a_500(server: Running) -> None:
    for where in ("bare", "guarded"):
        assert ask(server, f"/{where}/plain/never")[0].status == 500


def test_a_response_that_is_started_again_is_that_of_the_second_time(server: Running) -> None:
    head, body = ask(server, "/guarded/plain/restarted")
    assert (head.status, body) == (503, Body(b"again", complete=True))
    assert head.headers.getlist("X-Again") == ["yes"]
    assert len(head.headers.getlist("Content-Type")) == 1


def test_a_body_that_was_sent_is_read(server: Running) -> None:
    for where in ("bare", "guarded"):
        with connect(server) as raw:
            raw.send(b"POST /%s/plain/read HTTP/1.1\r\nHost: a\r\n" % where.encode())
            raw.send(b"Content-Length: 4\r\n\r\nsent")
            assert raw.read_head().headers["Content-Length"] == "4"
            assert raw.read_all() == Body(b"sent", complete=True)


LEGACY = [
    *("body=list&chunks=5,0,3", "body=tuple&chunks=5", "body=list", "body=write&chunks=5,9"),
    *("body=written&chunks=5,9", "body=iterator&chunks=5,9&length=14", "chunks=5,9&length=14"),
    *("chunks=5,9&length=20", "chunks=5,9&length=7", "body=file&chunks=900", "fail=call"),
    *("body=plain file&chunks=5&length=5", "fail=started", "fail=first&length=3&chunks=3"),
    *("restart=started&body=list&chunks=4", "body=text&chunks=4", "body=none", "body=number"),
    *("fail=call&error=base", "fail=mid&chunks=4,5&length=9", "status=204 No", "start=twice"),
    *("body=bytes&chunks=9", "body=noted file&chunks=90", "fail=close&chunks=4&length=4"),
    *("body=handled", "restart=mid&chunks=4,5&length=9", "hint=before,started&body=list"),
]


@pytest.mark.parametrize("query", LEGACY)
def test_what_old_applications_do_is_the_same(server: Running, query: str) -> None:
    assert_same(server, f"/legacy?{query}".replace(" ", "%20"))


# One greenlet or thread for all of it.


@pytest.mark.parametrize("size", ["15", "none"])
@pytest.mark.parametrize("where", ["guarded", "nested"])
def test_the_application_is_called_iterated_and_closed_in_one_place(
    server: Running, told: Told, where: str, size: str
) -> None:
    assert ask(server, f"/{where}/plain/where?size={size}", told.field)[1] == Body(
        b"here." * 3, complete=True
    )
    told.wait("notes", "5 in 1")


@pytest.mark.parametrize("kind", ["list", "file", "slots"])
@pytest.mark.parametrize("where", ["bare", "guarded", "nested"])
def test_a_body_that_the_server_gets_as_it_is_is_closed_where_it_was_made(
    server: Running, told: Told, where: str, kind: str
) -> None:
    body = ask(server, f"/{where}/plain/where-{kind}", told.field)[1]
    assert body == Body(b"one", complete=True)
    # the close() of an object with __slots__ cannot be replaced
    told.wait("notes", "closed" if kind == "slots" else "closed there")


@of_each_framework
@pytest.mark.parametrize("where", ["bare", "guarded"])
def test_a_generator_reads_the_request_of_its_framework(
    server: Running, framework: str, where: str
) -> None:
    body = ask(server, f"/{where}/{framework}/own-request?say=here")[1]
    assert body == Body(b"here\nhere\n", complete=True)


@pytest.mark.parametrize("where", ["bare", "guarded"])
def test_djangos_database_connections_are_closed_when_the_request_is_finished(
    server: Running, told: Told, where: str
) -> None:
    assert ask(server, f"/{where}/django/asks")[1].data == b"of the database"
    eventually(lambda: told()["connections"] == 0)


@under_gevent
def test_djangos_database_connections_are_closed_when_the_stream_has_ended(
    server: Running, told: Told
) -> None:
    with connect(server) as raw:
        raw.request("GET", "/guarded/django/asks-waits")
        reads(raw, FIRST)
        assert told()["connections"] == 1
    eventually(lambda: told()["connections"] == 0)


ASKING = [
    *("text", "file", "memory", "stream", "breaks"),
    *("our-stream", "our-breaks", "our-list", "our-sse", "our-file"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("where", ["bare", "guarded", "nested"])
def test_django_finishes_a_request_where_its_view_was_called(
    server: Running, told: Told, where: str, name: str, method: str
) -> None:
    times = 10
    before = Counter(told()["finished"])
    for _ in range(times):
        ask(server, f"/{where}/django/asking/{name}", method=method)
    finished = {"in its place": times}
    eventually(
        lambda: Counter(told()["finished"]) - before == finished and told()["connections"] == 0,
        explain=lambda: str(told()),
    )


@under_gevent
@pytest.mark.parametrize("where", ["bare", "guarded", "nested"])
@pytest.mark.parametrize("name", ["our-waits", "our-news"])
def test_a_stream_of_django_holds_no_connection_while_it_waits(
    server: Running, told: Told, where: str, name: str
) -> None:
    eventually(lambda: told()["connections"] == 0)
    before = Counter(told()["finished"])
    with ExitStack() as stack:
        for _ in range(5):
            raw = stack.enter_context(connect(server))
            raw.request("GET", f"/{where}/django/asking/{name}")
            assert raw.read_piece()
        assert told()["connections"] == 0
    eventually(lambda: (Counter(told()["finished"]) - before).total() == 5)
    assert told()["connections"] == 0


# Streams.


@under_gevent
@of_each_framework
def test_chunks_that_are_ready_leave_as_one(server: Running, told: Told, framework: str) -> None:
    with connect(server) as raw, Chunked(raw) as response:
        raw.ask("GET", f"/guarded/{framework}/ready", told.field)
        response.head()
        chunk = response.next() or b""
        assert chunk.endswith(b"chunk 199\n")
        assert chunk.count(b"\n") == 200
        assert response.next() is None
    told.wait("endings", "exhausted")
    assert told()["notes"] == ["closed"]


@of_each_framework
@pytest.mark.parametrize("where", ["guarded", "nested"])
def test_a_stream_has_the_same_bytes(server: Running, framework: str, where: str) -> None:
    bare = ask(server, f"/bare/{framework}/ready")
    head, body = ask(server, f"/{where}/{framework}/ready")
    assert (head.status, body) == (bare[0].status, bare[1])
    assert [*head.headers.keys()] == [*bare[0].headers.keys()]


@under_gevent
@of_each_framework
@pytest.mark.parametrize("name", ["waits", "events"])
def test_a_client_that_leaves_ends_its_stream_where_it_waits(
    server: Running, told: Told, framework: str, name: str
) -> None:
    with connect(server) as raw:
        raw.request("GET", f"/guarded/{framework}/{name}", told.field)
        reads(raw, FIRST)
    told.wait("endings", "disconnected")
    assert sorted(told()["notes"]) == ["GeneratorExit", "closed"]


@under_gevent
@pytest.mark.parametrize("where", ["guarded", "nested"])
def test_a_departure_is_noticed_where_the_application_has_waited_before_its_head(
    server: Running, told: Told, where: str
) -> None:
    with connect(server) as raw:
        raw.request("GET", f"/{where}/plain/thinks", told.field)
        reads(raw, FIRST)
    told.wait("endings", "disconnected")
    assert sorted(told()["notes"]) == ["GeneratorExit", "closed"]


@under_gevent
@of_each_framework
def test_a_client_that_stops_reading_is_given_up(
    server: Running, told: Told, framework: str
) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.connect((server.host, server.port))
        Raw(sock, server).ask("GET", f"/strict/{framework}/endless", told.field)
        told.wait("endings", "stalled")
        assert told()["notes"] == ["closed"]


@under_gevent
@of_each_framework
def test_a_deadline_breaks_a_stream_off_and_ends_an_event_stream(
    server: Running, told: Told, framework: str
) -> None:
    with connect(server) as plain, connect(server) as events:
        plain.ask("GET", f"/brief/{framework}/waits", told.field)
        events.ask("GET", f"/brief/{framework}/events", told.field, EVENT_SOURCE)
        plain.read_head()
        events.read_head()
        assert plain.read_all() == Body(FIRST, complete=False)
        assert events.read_all() == Body(OPENING + FIRST, complete=True)
    told.wait("endings", "deadline", "deadline")


@under_gevent
@of_each_framework
def test_a_heartbeat_is_for_event_streams_alone(server: Running, framework: str) -> None:
    with connect(server) as plain, connect(server) as events:
        plain.request("GET", f"/strict/{framework}/waits")
        reads(plain, FIRST)
        events.request("GET", f"/strict/{framework}/events")
        assert reads(events, FIRST + COMMENT * 2) == OPENING + FIRST + COMMENT * 2
        plain.sock.settimeout(0.001)
        with pytest.raises(TimeoutError):
            plain.read_piece()


@of_each_framework
@pytest.mark.parametrize("where", ["guarded", "nested"])
def test_a_failure_breaks_the_connection_off(
    server: Running, told: Told, framework: str, where: str
) -> None:
    before = len(server.log())
    assert ask(server, f"/{where}/{framework}/fails", told.field)[1] == Body(FIRST, complete=False)
    body = ask(server, f"/{where}/{framework}/failing-events", told.field)[1]
    assert body == Body(OPENING + FIRST + FAILED, complete=False)
    told.wait("endings", "failed", "failed")
    assert told()["notes"] == ["closed"] * 2
    eventually(lambda: server.log()[before:].count("RuntimeError: broken") == 2)


@of_each_framework
def test_event_streams_get_the_headers_that_they_lack(server: Running, framework: str) -> None:
    with connect(server) as raw:
        head = raw.request("GET", f"/guarded/{framework}/event")
        assert head.headers["Cache-Control"] == "no-cache"
        assert head.headers["X-Accel-Buffering"] == "no"
    head, body = ask(server, f"/guarded/{framework}/own-fields")
    assert head.headers.getlist("Cache-Control") == ["no-store"]
    assert head.headers["X-Accel-Buffering"] == "no"
    assert body == Body(OPENING + FIRST, complete=True)


@of_each_framework
def test_nothing_is_said_between_the_bytes_of_a_compression(
    server: Running, framework: str
) -> None:
    assert ask(server, f"/guarded/{framework}/encoded")[1] == Body(FIRST, complete=True)
    assert ask(server, f"/strict/{framework}/encoded")[1] == Body(FIRST, complete=True)


def test_a_generator_that_starts_its_response_late_is_a_stream(server: Running, told: Told) -> None:
    assert ask(server, "/guarded/plain/late", told.field)[1] == Body(b"late, but", complete=True)
    told.wait("endings", "exhausted")


@under_gevent
def test_a_stream_of_ours_keeps_its_own_promises(server: Running, told: Told) -> None:
    with connect(server) as raw:
        raw.request("GET", "/guarded/vento/events", told.field)
        assert reads(raw, FIRST) == OPENING + FIRST
    told.wait("endings", "disconnected")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.connect((server.host, server.port))
        Raw(sock, server).ask("GET", "/nested/vento/endless", told.field)
        told.wait("endings", "disconnected", "stalled")
    assert ask(server, "/guarded/vento/ready")[1].complete


def test_a_worker_that_stops_ends_the_event_streams_of_every_framework(tmp_path: Path) -> None:
    env = {"VENTO_DRAIN_WINDOW": "0.1"}
    with (
        serve(STREAM_WORKER, "apps.guarded:app", tmp=tmp_path, env=env) as running,
        ExitStack() as stack,
    ):
        raws = [stack.enter_context(connect(running)) for _ in FRAMEWORKS]
        for raw, framework in zip(raws, FRAMEWORKS):
            raw.request("GET", f"/guarded/{framework}/events", EVENT_SOURCE)
            reads(raw, FIRST)
        running.process.terminate()
        for raw in raws:
            body = raw.read_all()
            assert body.complete
            assert re.fullmatch(rb"retry: \d+\n", body.data), body.data
