"""What a Response takes, the headers that it sends, and when it is closed."""

import io
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import Headers
from werkzeug.test import create_environ
from werkzeug.wrappers import Response as WerkzeugResponse

from vento_wsgi import BodyError, Context, Event, Response

EVENTS = "text/event-stream"


def send(response: WerkzeugResponse, method: str = "GET") -> tuple[str, Headers, bytes]:
    """The status, headers and body of a response, as a server has them; it is closed then."""
    head: list[Any] = []

    def start_response(*sent: Any) -> Callable[[bytes], object]:
        head.extend(sent)
        return lambda _: None

    app_iter: Any = response(create_environ(method=method), start_response)
    try:
        body = b"".join(app_iter)
    finally:
        app_iter.close()
    status, headers = head
    return status, Headers(headers), body


def headers_of(response: Response, method: str = "GET") -> Headers:
    return send(response, method)[1]


def body_of(response: Response) -> bytes:
    return send(response)[2]


class Body:
    """Gives two chunks; tells how often it was begun and closed."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        self.begun += 1
        return iter([b"a", b"b"])

    def close(self) -> None:
        self.closed += 1


# Bodies.


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        pytest.param("Straße", "Straße".encode(), id="str"),
        pytest.param(b"\xff\x00", b"\xff\x00", id="bytes"),
        pytest.param(bytearray(b"ab"), b"ab", id="bytearray"),
        pytest.param(memoryview(b"ab"), b"ab", id="memoryview"),
        pytest.param(memoryview(b"a-b-")[::2], b"ab", id="memoryview with steps"),
        pytest.param("", b"", id="empty"),
    ],
)
def test_text_and_bytes_are_sent_as_they_are_with_their_length(body: object, sent: bytes) -> None:
    _, headers, data = send(Response(body))
    assert data == sent
    assert headers["Content-Length"] == str(len(sent))


def test_a_wrong_length_of_text_or_bytes_is_put_right() -> None:
    assert headers_of(Response("abc", headers={"Content-Length": "2"}))["Content-Length"] == "3"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: (c for c in "ab"), id="generator"),
        pytest.param(lambda: ["a", "b"], id="list"),
        pytest.param(lambda: map(str.lower, "AB"), id="iterator"),
        pytest.param(lambda: io.StringIO("ab"), id="text file"),
        pytest.param(Body, id="iterable with close"),
    ],
)
def test_a_stream_is_sent_without_a_length_of_its_own(make: Callable[[], object]) -> None:
    _, headers, data = send(Response(make()))
    assert data == b"ab"
    assert "Content-Length" not in headers


def test_the_length_that_a_user_gives_to_a_stream_is_sent() -> None:
    response = Response(iter("ab"), headers={"Content-Length": "2"})
    assert headers_of(response)["Content-Length"] == "2"


def test_a_file_in_memory_has_a_length() -> None:
    _, headers, data = send(Response(io.BytesIO(b"abc")))
    assert data == b"abc"
    assert headers["Content-Length"] == "3"


def test_an_open_file_has_a_length_and_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file = path.open("rb")
    _, headers, data = send(Response(file))
    assert data == b"abc"
    assert headers["Content-Length"] == "3"
    assert file.closed


def test_a_file_with_another_status_is_a_plain_stream(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    status, headers, data = send(Response(path.open("rb"), 404))
    assert status == "404 NOT FOUND"
    assert data == b"abc"
    assert "ETag" not in headers


@pytest.mark.parametrize(
    ("body", "instead"),
    [
        ({"a": 1}, r"use ctx\.json"),
        (None, r"Response\(status=204\)"),
        (5, "use str, bytes"),
        (Event("x"), "text/event-stream"),
        (lambda: iter("a"), "call it"),
        ("\ud800", "not Unicode text"),
    ],
    ids=["dict", "None", "int", "Event", "function", "half a surrogate pair"],
)
def test_what_cannot_be_sent_is_refused_when_the_response_is_made(
    body: object, instead: str
) -> None:
    with pytest.raises(BodyError, match=instead):
        Response(body)


@pytest.mark.parametrize("buffering", [0, -1], ids=["unbuffered", "buffered"])
def test_a_file_open_for_writing_is_refused_when_the_response_is_made(
    tmp_path: Path, buffering: int
) -> None:
    with (
        open(tmp_path / "file", "wb", buffering) as file,
        pytest.raises(BodyError, match="open for writing"),
    ):
        Response(file)


def test_nothing_of_a_body_is_taken_until_the_server_iterates() -> None:
    body = Body()
    response = Response(body)
    app_iter: Any = response(create_environ(), lambda *_: lambda _: None)
    assert body.begun == 0
    app_iter.close()
    assert (body.begun, body.closed) == (0, 1)


@pytest.mark.parametrize(
    "read",
    [
        Response.get_data,
        Response.add_etag,
        Response.make_sequence,
        Response.freeze,
        Response.calculate_content_length,
    ],
)
def test_a_stream_may_be_read_by_middleware_and_is_closed_once(
    read: Callable[[Response], object],
) -> None:
    body = Body()
    response = Response(body)
    read(response)
    _, headers, data = send(response)
    assert (data, headers["Content-Length"]) == (b"ab", "2")
    assert (body.begun, body.closed) == (1, 1)


def test_options_hold_for_a_stream_that_was_read() -> None:
    endings: list[Any] = []
    response = Context(create_environ()).stream(Body(), on_end=endings.append)
    assert response.get_data() == b"ab"
    assert body_of(response) == b"ab"
    assert [ending.reason for ending in endings] == ["exhausted"]


def test_a_file_cannot_be_read_into_memory_by_accident() -> None:
    with Context(create_environ()).file(__file__) as response, pytest.raises(RuntimeError):
        response.get_data()


# Status and headers.


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (201, "201 CREATED"),
        (HTTPStatus.CREATED, "201 CREATED"),
        ("404 Nothing here", "404 Nothing here"),
    ],
)
def test_a_status_is_a_code_or_a_code_and_a_reason(status: int | str, sent: str) -> None:
    assert send(Response("", status))[0] == sent


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-A": "1", "X-B": ["2", "3"]}, id="mapping"),
        pytest.param([("X-A", "1"), ("X-B", "2"), ("X-B", "3")], id="pairs"),
        pytest.param(Headers([("X-A", "1"), ("X-B", "2"), ("X-B", "3")]), id="Headers"),
    ],
)
def test_headers_are_a_mapping_or_pairs(headers: Any) -> None:
    sent = headers_of(Response("", headers=headers))
    assert sent.getlist("X-A") == ["1"]
    assert sent.getlist("X-B") == ["2", "3"]


@pytest.mark.parametrize("body", ["a", ["a"]], ids=["text", "stream"])
@pytest.mark.parametrize(
    ("headers", "content_type", "sent"),
    [
        (None, None, "text/plain; charset=utf-8"),
        (None, "application/json", "application/json"),
        (None, "text/html; charset=utf-8", "text/html; charset=utf-8"),
        ({"Content-Type": "application/x-ndjson"}, None, "application/x-ndjson"),
        ([("content-type", "application/x-ndjson")], None, "application/x-ndjson"),
        ({"Content-Type": "text/html"}, "application/json", "application/json"),
    ],
)
def test_the_content_type_is_the_argument_else_the_header_else_plain_text(
    body: object, headers: Any, content_type: str | None, sent: str
) -> None:
    response = Response(body, headers=headers, content_type=content_type)
    assert headers_of(response).getlist("Content-Type") == [sent]


HOP_BY_HOP = [
    ("Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Authorization", "Basic eDp5"),
    ("TE", "trailers"),
    ("Trailers", "X-Sum"),
    ("Transfer-Encoding", "chunked"),
    ("Upgrade", "h2c"),
]


@pytest.mark.parametrize("make", [lambda: "a", lambda: iter("a"), lambda: io.BytesIO(b"a")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_hop_by_hop_headers_never_leave(make: Callable[[], object], method: str) -> None:
    lower = [(name.lower(), value) for name, value in HOP_BY_HOP]
    response = Response(make(), headers=[*HOP_BY_HOP, *lower, ("X-Kept", "1")])
    response.headers["connection"] = "close"
    sent = headers_of(response, method)
    assert {name for name, _ in HOP_BY_HOP if name in sent} == set()
    assert sent["X-Kept"] == "1"


def test_cookies_and_other_helpers_of_werkzeug_work_on_a_stream() -> None:
    response = Response(iter("a"))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    response.headers["Content-Language"] = "it"
    sent = headers_of(response)
    assert [cookie[:3] for cookie in sent.getlist("Set-Cookie")] == ["a=1", "b=2"]
    assert sent["Content-Language"] == "it"


@pytest.mark.parametrize("body", ["a", ["a"]], ids=["text", "stream"])
@pytest.mark.parametrize("status", [204, 304])
def test_a_response_that_can_have_no_body_sends_nothing_that_describes_one(
    status: int, body: object
) -> None:
    _, headers, data = send(Response(body, status))
    assert data == b""
    assert "Content-Length" not in headers
    assert "Content-Type" not in headers


@pytest.mark.parametrize("kind", ["text/plain", EVENTS])
@pytest.mark.parametrize(
    "make",
    [lambda: "a", lambda: iter("a"), lambda: io.BytesIO(b"a")],
    ids=["text", "stream", "file"],
)
def test_head_has_the_headers_of_get_and_no_body(make: Callable[[], object], kind: str) -> None:
    got = send(Response(make(), content_type=kind))
    assert send(Response(make(), content_type=kind), "HEAD") == (*got[:2], b"")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A: 1\nSet-Cookie", "session=theirs"),
        ("X-A: 1\r\nSet-Cookie", "session=theirs"),
        ("X-A\0 1\nSet-Cookie", "session=theirs"),
        ("X-A: 1", "2"),
        ("X-A:", "2"),
        ("X-A\n", "2"),
        ("", "2"),
        ("X A", "2"),
        ("X-A", "1\0"),
        ("X-A", "1\x7f"),
    ],
)
@pytest.mark.parametrize("body", ["a", ["a"]], ids=["text", "stream"])
def test_a_name_or_a_value_that_is_none_is_not_sent(name: str, value: str, body: object) -> None:
    with pytest.raises(ValueError, match="cannot be sent: its name or value is not legal"):
        send(Response(body, headers=[("X-First", "1"), (name, value), ("X-Last", "1")]))


@pytest.mark.parametrize(
    "status",
    [
        "200 OK\r\nSet-Cookie: session=theirs",
        "200 OK\nX-A\0001",
        "200 OK\nX-A: 1",
        "200 \0",
        "200 €",
        "20 OK",
        "2000 OK",
        "+200 OK",
        "٢٠٠ OK",
        "OK",
    ],
)
@pytest.mark.parametrize("body", ["a", ["a"]], ids=["text", "stream"])
def test_a_status_that_is_none_is_not_sent(status: str, body: object) -> None:
    with pytest.raises(ValueError, match=r"the status .* cannot be sent"):
        send(Response(body, status))


@pytest.mark.parametrize("length", ["x", "+1", "1_0", "-1", "", "١", "1, 1"])
def test_a_length_that_is_none_is_not_sent(length: str) -> None:
    with pytest.raises(ValueError, match=r"Content-Length|header"):
        send(Response(iter("a"), headers={"Content-Length": length}))


# Event streams.


@pytest.mark.parametrize("kind", [EVENTS, "text/event-stream; charset=utf-8", "Text/Event-Stream"])
@pytest.mark.parametrize("body", [["data: a\n\n"], "data: a\n\n", Event("a")], ids=type)
def test_an_event_stream_gets_the_headers_that_it_needs(kind: str, body: object) -> None:
    sent = headers_of(Response(body, content_type=kind))
    assert sent["Content-Type"] == kind
    assert sent["Cache-Control"] == "no-cache"
    assert sent["X-Accel-Buffering"] == "no"


def test_an_event_stream_keeps_the_headers_that_its_user_gave() -> None:
    given = {
        "Content-Type": EVENTS,
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "yes",
        "Connection": "keep-alive",
    }
    sent = headers_of(Response(iter(["data: a\n\n"]), headers=given))
    assert sent.getlist("Cache-Control") == ["no-store, no-transform"]
    assert sent.getlist("X-Accel-Buffering") == ["yes"]
    assert "Connection" not in sent


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json", "text/event-stream2"])
def test_other_streams_do_not_get_the_headers_of_event_streams(kind: str | None) -> None:
    sent = headers_of(Response(iter("a"), content_type=kind))
    assert "Cache-Control" not in sent
    assert "X-Accel-Buffering" not in sent


def test_an_event_stream_takes_events_text_and_bytes() -> None:
    body = [Event("a", id="1"), "data: b\n\n", b"data: c\n\n"]
    sent = body_of(Response(body, content_type=EVENTS))
    assert sent.removeprefix(b":\nretry: 3000\n") == b"id: 1\ndata: a\n\ndata: b\n\ndata: c\n\n"


def test_a_single_event_can_be_a_whole_event_stream() -> None:
    _, headers, data = send(Response(Event("a"), content_type=EVENTS))
    assert data == b"data: a\n\n"
    assert headers["Content-Length"] == str(len(data))


# Subclasses.


class Overriding(Response):
    """Overrides methods of werkzeug's, which are called then."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        headers = super().get_wsgi_headers(environ)
        headers["X-Headers"] = "1"
        return headers

    def iter_encoded(self) -> Iterator[bytes]:
        return map(bytes.upper, super().iter_encoded())

    def set_data(self, value: bytes | str) -> None:
        super().set_data(value)
        self.headers["X-Data"] = "1"

    data = property(Response.get_data, set_data)


BODIES: list[Callable[[], object]] = [
    lambda: "ab",
    lambda: iter("ab"),
    lambda: ["ab"],
    lambda: io.BytesIO(b"ab"),
]


@pytest.mark.parametrize("make", BODIES, ids=["text", "stream", "list", "file"])
@pytest.mark.parametrize("status", [200, 204, 404])
@pytest.mark.parametrize("kind", [None, "text/plain", "text/event-stream; charset=utf-8"])
def test_what_a_subclass_overrides_is_called_and_changes_nothing_else(
    make: Callable[[], object], status: int, kind: str | None
) -> None:
    usual = send(Response(make(), status, content_type=kind))
    said, headers, data = send(Overriding(make(), status, content_type=kind))
    assert headers.pop("X-Headers") == "1"
    assert headers.pop("X-Data", None) == ("1" if make() == "ab" else None)
    assert (said, headers) == usual[:2]
    assert data == (usual[2].upper() if make() == "ab" else usual[2])


@pytest.mark.parametrize("body", ["ab", ["a", "b"]], ids=["text", "stream"])
def test_another_class_of_werkzeugs_can_be_made_of_it(body: object) -> None:
    """Flask does so with what a view returns."""
    ran: list[bool] = []
    response = WerkzeugResponse.force_type(Response(body, content_type="text/plain"))
    response.__class__ = WerkzeugResponse
    response.call_on_close(lambda: ran.append(True))
    assert send(response)[2] == b"ab"
    assert ran == [True]


def test_text_is_sent_as_one_piece_that_is_known_to_be_all() -> None:
    body: Any = Response("ab", content_type="text/plain")(
        create_environ(), lambda *_: lambda _: None
    )
    assert len(body) == 1
    assert [*body] == [b"ab"]


# Closing.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "make",
    [lambda: "a", lambda: iter("a"), lambda: io.BytesIO(b"a"), lambda: [Event("a")]],
    ids=["text", "stream", "file", "events"],
)
def test_what_call_on_close_was_given_runs_once_in_order(
    make: Callable[[], object], method: str
) -> None:
    ran: list[str] = []
    response = Response(make(), content_type=EVENTS)
    response.call_on_close(lambda: ran.append("first"))
    response.call_on_close(lambda: ran.append("second"))
    send(response, method)
    assert ran == ["first", "second"]
    response.close()
    assert ran == ["first", "second"]


def test_the_body_is_closed_before_the_callbacks_run() -> None:
    body, closed = Body(), []
    response = Response(body)
    response.call_on_close(lambda: closed.append(body.closed))
    send(response)
    assert closed == [1]


def test_a_response_that_is_never_sent_can_be_closed() -> None:
    body, ran = Body(), []
    with Response(body) as response:
        response.call_on_close(lambda: ran.append(True))
    response.close()
    assert (body.begun, body.closed, ran) == (0, 1, [True])


def test_a_closing_that_fails_says_so_after_everything_was_closed() -> None:
    body, ran = Body(), []
    response = Response(body)
    response.call_on_close(lambda: 1 / 0)
    response.call_on_close(lambda: ran.append(True))
    with pytest.raises(ZeroDivisionError):
        response.close()
    assert (body.closed, ran) == (1, [True])
