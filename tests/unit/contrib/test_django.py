"""The Django adapter without a server."""

from __future__ import annotations

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
from support.cookies import parsed
from support.servers import OPENING

from vento_wsgi import BodyError, Broker, StreamAborted
from vento_wsgi.contrib.django import file, last_event_id, sse, stream
from vento_wsgi.streaming.connection import Connection
from vento_wsgi.streaming.environ import CONNECTION
from vento_wsgi.streaming.ticker import process_ticker


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


def test_options_headers_and_status_are_taken() -> None:
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


class Parking(Connection):
    """A server that parks sockets."""

    @property
    def can_park(self) -> bool:
        return True


def test_a_subscription_is_no_feed_where_middleware_has_replaced_it() -> None:
    of = request()
    of.META[CONNECTION] = Parking()
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
