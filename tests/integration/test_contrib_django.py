"""Streams as Django's responses, on real servers."""

from __future__ import annotations

import gzip

import pytest
from apps import legacy_sites  # it configures Django
from support.cookies import parsed
from support.servers import Body, Running, connect, eventually, get
from support.sites import GEVENT, assert_parked, noted, reads, served_sites, tell

GZIP = "Accept-Encoding: gzip"
ROWS = "".join(f"row {number}\n" for number in range(100)).encode()


server = served_sites(*GEVENT, "gunicorn-gthread")


under_gevent = pytest.mark.parametrize("server", GEVENT, indirect=True)


# On servers.


def no_connections(server: Running) -> None:
    eventually(lambda: tell(server)["connections"] == 0, explain=lambda: str(tell(server)))


def test_a_stream_of_the_database_holds_no_connection_after_it(server: Running) -> None:
    head, body = get(server, "/django/rows")
    assert body == Body(ROWS, complete=True)
    assert head.headers["Content-Type"] == "text/csv"
    assert head.headers["X-Own"] == "yes"
    assert head.headers["X-Seen"] == "StreamingHttpResponse"
    cookies = head.headers.getlist("Set-Cookie")
    assert [cookie.partition(";")[0] for cookie in cookies] == ["a=1", "b=2"]
    no_connections(server)


@under_gevent
def test_a_stream_that_waits_holds_no_connection(server: Running) -> None:
    no_connections(server)
    with connect(server) as raw:
        raw.request("GET", "/django/waits")
        reads(raw, b"django first\n")
        assert tell(server)["connections"] == 0
    noted(server, "django: GeneratorExit", "django finished")


@under_gevent
def test_the_connection_of_a_generator_is_given_back_when_its_client_leaves(
    server: Running,
) -> None:
    no_connections(server)
    with connect(server) as raw:
        raw.request("GET", "/django/asks")
        reads(raw, b"django first\n")
        assert tell(server)["connections"] == 1
    no_connections(server)


@under_gevent
def test_a_subscription_is_parked_and_holds_no_connection(server: Running) -> None:
    def finished() -> int:
        return tell(server)["notes"].count("django finished")  # type: ignore[no-any-return]

    before = finished()
    assert_parked(server, "/django/live/news")
    no_connections(server)
    eventually(lambda: finished() >= before + 6)
    assert get(server, "/django/rows")[1].complete
    eventually(lambda: finished() >= before + 7)
    assert finished() == before + 7, "each once"
    assert "Traceback" not in server.log()


def test_events_have_their_id(server: Running) -> None:
    head, body = get(server, "/django/live/events", "Last-Event-ID: 7", GZIP)
    assert head.headers["X-Accel-Buffering"] == "no"
    assert body == Body(b':\nretry: 3000\ndata: {"last":"7"}\n\n', complete=True)
    wrong = get(server, "/django/live/events", f"Last-Event-ID: {'7' * 2000}")[0]
    assert wrong.status == 400


# What the view has by its thread or context.

ADA = "ada id of ada de Januar Asia/Tokyo /django/ apps.legacy_sites"
NOBODY = "nobody none en-us January America/Chicago /django/ apps.legacy_sites"


any_server = served_sites(*GEVENT, "gunicorn-gthread", "gunicorn-sync")


def test_a_body_sees_what_its_view_saw(any_server: Running) -> None:
    for user in ("ada", "bob", None):
        of = f"?as={user}" if user else ""
        view = ADA.replace("ada", user) if user else NOBODY
        body = get(any_server, f"/django/remembers/generator{of}")[1]
        assert body.complete
        *lines, changed = body.data.decode().splitlines()
        assert lines == [view, view]
        assert changed.startswith("another another fr janvier Europe/Paris")
        noted(any_server, f"django view: {view}", f"django finally: {changed}")
        iterable = get(any_server, f"/django/remembers/iterable{of}")[1]
        assert iterable.data.decode().splitlines() == [view, view]
        noted(any_server, f"django closed: {view}")


def test_events_see_what_their_view_saw(any_server: Running) -> None:
    data = get(any_server, "/django/remembers/sse?as=ada")[1].data.decode()
    assert data.count(ADA) == 2
    assert NOBODY in get(any_server, "/django/remembers/sse")[1].data.decode()


def test_what_a_body_changes_is_not_there_in_the_next_request(server: Running) -> None:
    with connect(server) as raw:  # one connection: the same greenlet or thread
        for _ in range(5):
            raw.request("GET", "/django/remembers/generator")
            body = raw.read_all().data.decode()
            assert body.startswith(f"{NOBODY}\n{NOBODY}\n")


@under_gevent
def test_what_a_body_sets_on_a_connection_is_not_there_in_the_next_stream(server: Running) -> None:
    for _ in range(3):
        assert get(server, "/django/tenant")[1].data == b"tenant None\n1\n2\n"


@under_gevent
def test_a_body_that_its_client_leaves_sees_what_its_view_saw(server: Running) -> None:
    with connect(server) as raw:
        raw.request("GET", "/django/remembers/waits?as=ada")
        reads(raw, b"first\n")
    noted(server, f"django left: {ADA}")


def test_a_body_that_nobody_reads_is_closed_as_its_view(any_server: Running) -> None:
    get(any_server, "/django/remembers/iterable?as=eve", method="HEAD")
    noted(any_server, f"django closed: {ADA.replace('ada', 'eve')}")


# Cookies.


def test_cookies_leave_as_the_view_wrote_them(server: Running) -> None:
    head, body = get(server, "/django/cookies")
    assert body.data == b"a"
    assert [parsed(cookie) for cookie in head.headers.getlist("Set-Cookie")] == [
        parsed(cookie) for cookie in legacy_sites.COOKIES
    ]


@under_gevent
def test_middleware_that_compresses_holds_no_event_up(server: Running) -> None:
    with connect(server) as raw:
        head = raw.request("GET", "/django/live/waiting-events", GZIP)
        assert "Content-Encoding" not in head.headers
        reads(raw, b"data: django events first")


def test_middleware_compresses_a_stream(server: Running) -> None:
    head, body = get(server, "/django/rows", GZIP)
    assert head.headers["Content-Encoding"] == "gzip"
    assert body.complete
    assert gzip.decompress(body.data) == ROWS


def test_middleware_may_replace_the_body_or_drop_it(server: Running) -> None:
    assert get(server, "/django/rows?replace=1")[1] == Body(ROWS.upper(), complete=True)
    assert get(server, "/django/rows?drop=1")[1].data == b"dropped"
    assert b"DATA" in get(server, "/django/live/events?replace=1")[1].data
    no_connections(server)


def test_a_file_leaves_with_its_ranges_and_validators(server: Running) -> None:
    head, body = get(server, "/django/data")
    assert body.complete
    assert len(body.data) == 300_000
    with connect(server) as raw:
        for _ in range(2):  # on one connection: the length is right
            part = raw.request("GET", "/django/data", "Range: bytes=5-9", GZIP)
            assert (part.status, raw.read_all().data) == (206, body.data[5:10])
            assert part.headers["Vary"] == head.headers["Vary"] == "Accept-Encoding"
    assert get(server, "/django/data", f"If-None-Match: {head.headers['ETag']}")[0].status == 304
    whole = get(server, "/django/data", GZIP)
    assert gzip.decompress(whole[1].data) == body.data
    assert whole[0].headers["ETag"].startswith('W/"')
    length = get(server, "/django/data", method="HEAD")[0].headers["Content-Length"]
    assert length == "300000"
    assert get(server, "/django/files/none")[0].status == 404
    assert get(server, "/django/files/../data.bin")[0].status == 404
