"""Streams as Django's responses: by its request factory, and on real servers."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apps import legacy_sites  # it configures Django
from django.core.exceptions import (  # type: ignore[import-untyped]
    BadRequest,
    PermissionDenied,
)
from django.http import (  # type: ignore[import-untyped]
    Http404,
    StreamingHttpResponse,
)
from django.test import Client, RequestFactory  # type: ignore[import-untyped]
from django.utils import translation  # type: ignore[import-untyped]
from support.servers import OPENING, Body, Running, connect, eventually, get
from support.sites import GEVENT, assert_parked, noted, reads, served_sites, tell

from vento_wsgi import BodyError, Broker, StreamAborted
from vento_wsgi.contrib.django import file, last_event_id, sse, stream
from vento_wsgi.streaming.ticker import process_ticker

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


def parsed(cookie: str) -> tuple[str, list[str]]:
    """A cookie's pair, and its attributes, whose order means nothing."""
    pair, *attributes = cookie.split("; ")
    return pair, sorted(attribute.lower() for attribute in attributes)


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


# In this process.


def request(**headers: str) -> Any:
    return RequestFactory().get("/", headers=headers)


@pytest.mark.parametrize(
    "make_response",
    [
        lambda of: stream(of, iter(["a"])),
        lambda of: sse(of, ["a"]),
        lambda of: file(of, __file__),
        lambda of: sse(of, Broker("memory://").subscribe("a")),
    ],
    ids=["stream", "sse", "file", "subscription"],
)
def test_what_is_returned_is_djangos(make_response: Any) -> None:
    made = make_response(request())
    assert isinstance(made, StreamingHttpResponse)
    assert made.streaming
    assert not made.is_async
    made.close()


def test_a_response_that_nobody_sends_leaves_nothing() -> None:
    ticker = process_ticker(cooperative=False)
    before = len(ticker.members)
    stream(request(), iter(["a"]), deadline=9)
    assert len(ticker.members) == before
    sent = stream(request(), iter(["a"]), deadline=9)
    assert next(iter(sent)) == b""
    assert len(ticker.members) == before + 1
    sent.close()
    assert len(ticker.members) == before


def test_the_body_is_closed_once_also_when_it_is_not_sent() -> None:
    class Source:
        closed = 0

        def __iter__(self) -> Iterator[str]:
            return iter(["a", "b"])

        def close(self) -> None:
            self.closed += 1

    for read in (False, True):
        source = Source()
        response = stream(request(), source)
        if read:
            assert response.getvalue() == b"ab"
        response.close()
        response.close()
        assert source.closed == 1


class Filelike:
    """A wrapper as servers have it."""

    def __init__(self, filelike: Any, size: int) -> None:
        self.filelike, self.size = filelike, size
        self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.filelike.read(self.size), b"")


def sent_by_a_server(**environ: Any) -> tuple[str, Any]:
    status: list[str] = []
    full = {**RequestFactory()._base_environ(PATH_INFO="/data"), **environ}
    body = legacy_sites.django_app(full, lambda found, *_: status.append(found))
    return status[0], body


def test_a_file_is_left_to_a_server_that_can_send_it() -> None:
    status, body = sent_by_a_server(**{"wsgi.file_wrapper": Filelike, "HTTP_RANGE": "bytes=5-9"})
    assert status == "206 Partial Content"
    assert isinstance(body, Filelike)
    assert body.filelike.tell() == 5
    assert len(b"".join(body)) == 5
    body.close()
    status, body = sent_by_a_server(
        **{"wsgi.file_wrapper": Filelike, "HTTP_ACCEPT_ENCODING": "gzip"}
    )
    assert not isinstance(body, Filelike)
    body.close()


def test_a_file_that_shrinks_under_sendfile_breaks_off(tmp_path: Any) -> None:
    (tmp_path / "data").write_bytes(b"0123456789")
    of = request()
    of.META["wsgi.file_wrapper"] = Filelike
    response = file(of, tmp_path / "data")
    assert response.file_to_stream is not None
    (tmp_path / "data").write_bytes(b"0")
    with pytest.raises(StreamAborted, match="shrank"):
        response.close()
    response.close()


def test_errors_are_djangos(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Http404):
        file(request(), "../none", root=tmp_path)
    (tmp_path / "data").write_bytes(b"0")

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(PermissionDenied):
            file(request(), tmp_path / "data")
    with pytest.raises(BadRequest, match="Last-Event-ID"):
        last_event_id(request(**{"Last-Event-ID": "\t" * 5}))
    assert last_event_id(request(**{"Last-Event-ID": "5"})) == "5"


@pytest.mark.parametrize(
    ("body", "says"),
    [({"a": 1}, "cannot be dict"), (None, "cannot be NoneType"), (print, "cannot be builtin")],
)
def test_a_body_that_is_none_is_refused_by_name(body: Any, says: str) -> None:
    with pytest.raises(BodyError, match=says):
        stream(request(), body)
    if body is not print:
        with pytest.raises((BodyError, TypeError)):
            sse(request(), body)


def test_policies_headers_and_status_are_taken() -> None:
    endings: list[Any] = []
    headers = [("Vary", "A"), ("Vary", "B"), ("Connection", "close"), ("X-A", "b")]
    response = stream(
        request(), iter("ab"), "text/a", status=202, headers=headers, on_end=endings.append
    )
    assert response.status_code == 202
    assert response.headers == {"Vary": "A, B", "X-A": "b", "Content-Type": "text/a"}
    assert b"".join(response) == b"ab"
    response.close()
    assert [ending.reason for ending in endings] == ["exhausted"]
    assert "Content-Type" not in stream(request(), b"", status=204)


def cookies(*lines: str) -> Any:
    return stream(request(), b"", headers=[("Set-Cookie", line) for line in lines])


def sent(response: Any) -> list[str]:
    return [cookie.OutputString() for cookie in response.cookies.values()]


def test_middleware_sees_and_changes_the_cookies_of_a_view() -> None:
    response = cookies("a=1; Path=/x; Partitioned", 'b={"c":1}; Path=/; X-Own=1')
    assert {name: cookie.value for name, cookie in response.cookies.items()} == {
        "a": "1",
        "b": '{"c":1}',
    }
    response.cookies["a"]["samesite"] = "None"
    response.set_cookie("b", "2", path="/", secure=True)
    response.set_cookie("sessionid", "3", httponly=True)
    assert [parsed(line) for line in sent(response)] == [
        parsed("a=1; Path=/x; Partitioned; SameSite=None"),
        parsed("b=2; Path=/; X-Own=1; Secure"),
        parsed("sessionid=3; Path=/; HttpOnly"),
    ]
    del response.cookies["a"]
    assert len(sent(response)) == 2


@pytest.mark.parametrize(
    ("line", "leaves"),
    [
        ("a=", "a="),
        ('a=""', 'a=""'),
        ("a = 1 ;path = /x;;secure", "a=1; Path=/x; Secure"),
        ("a=b=c; Path=", "a=b=c; Path="),
        ("a; Path=/", "=a; Path=/"),  # a cookie without a name, as browsers take it
        ('a="\\303\\274"', 'a="\\303\\274"'),
        ("a=\xfc", "a=\xfc"),
        ("a=1; Comment=x y; Version=1", "a=1; Comment=x y; Version=1"),
        ("a=1; Expires=Wed, 09 Jun 2100 10:18:14 GMT",) * 2,
        ("path=1; Path=/", "path=1; Path=/"),
        ("a/b=1", "a/b=1"),
        ("$a=1", "$a=1"),
    ],
)
def test_a_cookie_of_any_form_is_kept(line: str, leaves: str) -> None:
    assert [parsed(cookie) for cookie in sent(cookies(line))] == [parsed(leaves)]


def test_a_cookie_without_anything_is_none() -> None:
    assert sent(cookies("", " ; Path=/", "=")) == []


def test_cookies_of_one_name_are_all_kept_in_order() -> None:
    lines = ["a=1; Path=/x", "b=2", "a=3; Path=/y", "a=4; Path=/z"]
    response = cookies(*lines)
    assert sent(response) == lines
    response.delete_cookie("b")
    assert len(sent(response)) == 4


def test_djangos_test_client_has_the_cookies() -> None:
    client = Client()
    response = client.get("/cookies")
    assert response.getvalue() == b"a"
    assert client.cookies["json"].value == '{"a":1,"b":[2,3]}'
    assert client.get("/cookies").status_code == 200


def test_a_subscription_is_no_feed_where_middleware_has_replaced_it() -> None:
    of = request()
    of.META["vento_wsgi.park"] = True
    broker = Broker("memory://")
    response = sse(of, broker.subscribe("a"))
    assert response.vento_body() is not None
    response = sse(of, broker.subscribe("a"))
    response.streaming_content = (part for part in response.streaming_content)
    assert response.vento_body() is None
    broker.publish("a", "one")
    assert next(iter(response)) in (b"", OPENING)
    response.close()


def test_djangos_test_client_reads_a_stream() -> None:
    response = Client().get("/live/events", headers={"Last-Event-ID": "3"})
    assert response.getvalue() == b':\nretry: 3000\ndata: {"last":"3"}\n\n'
    assert Client().get("/files/none").status_code == 404


# Where a body runs.


def in_a_thread(function: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def test_a_body_in_another_thread_sees_what_its_view_saw() -> None:
    """As on servers, but with the values of asgiref's Local that the view's thread still has."""
    seen: list[str] = []

    class Lines:
        def __iter__(self) -> Iterator[str]:
            try:
                seen.append(legacy_sites.remembered())
                yield "a"
                seen.append(legacy_sites.remembered())
                legacy_sites.forget()
                yield "b"
            finally:
                seen.append(legacy_sites.remembered())

        def close(self) -> None:
            seen.append(legacy_sites.remembered())

    legacy_sites.current.user = "ada"
    with translation.override("de"):
        here = legacy_sites.remembered()
        response = stream(request(), Lines(), "text/plain")
    parts = iter(response)
    next(parts)  # the head
    in_a_thread(lambda: next(parts))
    in_a_thread(lambda: next(parts))
    in_a_thread(response.close)
    assert seen[:2] == [here, here]
    assert len(seen) == 4
    assert seen[2] == seen[3]
    assert seen[2].startswith("another another fr")
    assert legacy_sites.remembered().startswith("ada none en-us")
    del legacy_sites.current.user
