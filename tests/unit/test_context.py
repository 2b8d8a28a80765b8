"""What a handler reads from its request, and the responses that Context makes."""

import io
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.exceptions import BadRequest, Forbidden, NotFound
from werkzeug.test import Client, EnvironBuilder, TestResponse, create_environ, run_wsgi_app
from werkzeug.wrappers import Response as WerkzeugResponse

from vento_wsgi import Context, Event, Request, Response, create_app, create_router
from vento_wsgi.routing import Next


def context(path: str = "/", **options: Any) -> Context:
    return Context(EnvironBuilder(path, **options).get_environ())


def sent(response: WerkzeugResponse) -> TestResponse:
    """The response as a client gets it."""
    environ = create_environ()
    body, status, headers = run_wsgi_app(response, environ, buffered=True)
    return TestResponse(body, status, headers, EnvironBuilder.from_environ(environ).get_request())


# What it reads.


@pytest.mark.parametrize("method", ["GET", "POST", "PROPFIND"])
def test_the_method_is_the_requests(method: str) -> None:
    assert context(method=method).method == method


@pytest.mark.parametrize(
    ("asked", "path"),
    [("/a/b", "/a/b"), ("/a%20b/%C3%BC", "/a b/ü"), ("/", "/"), ("/a/?x=1", "/a/")],
)
def test_the_path_is_decoded_and_without_the_query(asked: str, path: str) -> None:
    assert context(asked).path == path


def test_the_path_is_below_the_root_and_the_url_is_whole() -> None:
    ctx = context("/news/today?q=a%26b&r=1", base_url="https://example.org:8443/app")
    assert ctx.path == "/news/today"
    assert ctx.url == "https://example.org:8443/app/news/today?q=a%26b&r=1"


def test_params_are_empty_until_a_route_matched() -> None:
    assert context().params == {}


def test_the_query_has_its_fields() -> None:
    ctx = context("/?q=%C3%BCber&tag=a&tag=b&empty=")
    assert ctx.query["q"] == "über"
    assert ctx.query.getlist("tag") == ["a", "b"]
    assert ctx.query["empty"] == ""
    assert ctx.query.get("page", 1, type=int) == 1


def test_a_field_that_the_query_lacks_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        context().query["q"]


def test_headers_are_found_by_any_case() -> None:
    ctx = context(headers={"X-Token": "abc", "Content-Type": "text/plain"})
    assert ctx.headers["x-token"] == ctx.headers["X-TOKEN"] == "abc"
    assert ctx.headers["content-type"] == "text/plain"
    assert ctx.headers.get("X-Other") is None


def test_the_request_is_one_and_the_same() -> None:
    ctx = context("/", method="POST", data=b'{"a": 1}')
    assert isinstance(ctx.request, Request)
    assert ctx.request is ctx.request
    assert ctx.request.json() == {"a": 1}


def test_middleware_leaves_things_in_the_state_for_the_handler_of_that_request() -> None:
    def signed_in(ctx: Context, next: Next) -> WerkzeugResponse:
        assert not hasattr(ctx.state, "user")
        ctx.state.user = ctx.headers["X-User"]
        return next()

    app, router = create_app(), create_router()
    app.use(signed_in)
    router.get("/", lambda ctx: ctx.text(ctx.state.user))
    app.use(router)
    answers = [Client(app).get("/", headers={"X-User": user}).text for user in ("ann", "bob")]
    assert answers == ["ann", "bob"]


# Last-Event-ID.


@pytest.mark.parametrize(
    ("header", "query", "found"),
    [
        (None, "", None),
        ("42", "", "42"),
        (None, "?lastEventId=42", "42"),
        ("42", "?lastEventId=7", "42"),
        ("", "", None),
        ("", "?lastEventId=7", None),
        (None, "?lastEventId=", None),
        ("topic:1-0, topic:2-5", "", "topic:1-0, topic:2-5"),
        ("größe €", "", "größe €"),
        (None, "?lastEventId=gr%C3%B6%C3%9Fe%20%E2%82%AC", "größe €"),
        ("x" * 1024, "", "x" * 1024),
        ("€" * 1024, "", "€" * 1024),
    ],
)
def test_the_last_event_id_is_of_the_header_or_else_of_the_query(
    header: str | None, query: str, found: str | None
) -> None:
    environ = create_environ(f"/events{query}")
    if header is not None:
        environ["HTTP_LAST_EVENT_ID"] = header.encode().decode("latin-1")
    assert Context(environ).last_event_id == found


def test_a_last_event_id_that_is_not_utf8_is_read_with_replacements() -> None:
    environ = create_environ()
    environ["HTTP_LAST_EVENT_ID"] = "a\xffb"
    assert Context(environ).last_event_id == "a\ufffdb"


@pytest.mark.parametrize("value", ["x" * 1025, "a\0b", "a\tb", "a\nb", "a\x7fb"])
@pytest.mark.parametrize("where", ["header", "query"])
def test_a_last_event_id_that_no_server_sent_is_a_bad_request(value: str, where: str) -> None:
    environ = create_environ(query_string={"lastEventId": value} if where == "query" else None)
    if where == "header":
        environ["HTTP_LAST_EVENT_ID"] = value
    with pytest.raises(BadRequest, match="Last-Event-ID"):
        _ = Context(environ).last_event_id


# What it answers.


@pytest.mark.parametrize(
    ("make", "content_type", "body"),
    [
        (lambda ctx: ctx.text("für €"), "text/plain; charset=utf-8", "für €".encode()),
        (lambda ctx: ctx.html("<p>für"), "text/html; charset=utf-8", "<p>für".encode()),
        (lambda ctx: ctx.json({"ü": [1, None]}), "application/json", '{"ü":[1,null]}'.encode()),
        (lambda ctx: ctx.json("text"), "application/json", b'"text"'),
        (lambda ctx: ctx.json(None), "application/json", b"null"),
        (lambda ctx: ctx.stream(iter(["a", b"b"])), "application/octet-stream", b"ab"),
        (lambda ctx: ctx.stream(["a"], "text/csv"), "text/csv", b"a"),
        (lambda ctx: ctx.stream(io.BytesIO(b"PK"), "application/zip"), "application/zip", b"PK"),
        (lambda ctx: ctx.stream("whole"), "application/octet-stream", b"whole"),
    ],
)
def test_a_response_has_its_content_type_and_body(
    make: Callable[[Context], Response], content_type: str, body: bytes
) -> None:
    response = sent(make(context()))
    assert response.status_code == 200
    assert response.headers.getlist("Content-Type") == [content_type]
    assert response.data == body


def test_what_is_sent_whole_has_a_length_and_what_is_streamed_has_none() -> None:
    ctx = context()
    assert sent(ctx.text("für")).headers["Content-Length"] == "4"
    assert sent(ctx.json({})).headers["Content-Length"] == "2"
    assert "Content-Length" not in sent(ctx.stream(iter(["a"]))).headers


MAKERS: dict[str, Callable[..., Response]] = {
    "text": lambda **options: context().text("x", **options),
    "html": lambda **options: context().html("x", **options),
    "json": lambda **options: context().json("x", **options),
    "stream": lambda **options: context().stream(iter("x"), **options),
}


@pytest.mark.parametrize("make", MAKERS)
def test_a_response_may_have_another_status_and_more_headers(make: str) -> None:
    response = sent(MAKERS[make](status=418, headers=[("X-A", "1"), ("X-A", "2")]))
    assert response.status_code == 418
    assert response.headers.getlist("X-A") == ["1", "2"]


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
@pytest.mark.parametrize("make", [*MAKERS, "file"])
def test_a_content_type_among_the_headers_is_preferred_to_the_default(
    make: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("x")
    makers = {**MAKERS, "file": lambda **options: context().file(tmp_path / "x.txt", **options)}
    response = sent(makers[make](headers={name: "application/vnd.x"}))
    assert response.headers.getlist("Content-Type") == ["application/vnd.x"]


def test_a_content_type_that_is_given_to_stream_is_preferred_to_the_headers() -> None:
    headers = {"Content-Type": "text/plain", "X-A": "1"}
    response = sent(context().stream(iter("x"), "text/csv", headers=headers))
    assert response.headers.getlist("Content-Type") == ["text/csv"]
    assert response.headers["X-A"] == "1"


@pytest.mark.parametrize("data", [{1, 2}, object(), float("nan"), float("inf")])
def test_what_is_no_json_is_an_error_at_once(data: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        context().json(data)


def test_json_keeps_what_it_is_given() -> None:
    data = {"a": [1, 2.5, True, None, "ü\u2028</script>"], "b": {"c": {}}}
    assert json.loads(sent(context().json(data)).data) == data


@pytest.mark.parametrize("body", [None, {"a": 1}, 7, Event("x"), len])
def test_what_cannot_be_streamed_is_refused_at_once(body: object) -> None:
    with pytest.raises(TypeError, match="a body cannot be"):
        context().stream(body)


def test_nothing_is_taken_of_a_stream_when_it_is_made() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[str]:
        taken.append(1)
        yield "1"

    response = context().stream(numbers())
    assert taken == []
    assert sent(response).data == b"1"
    assert taken == [1]


def test_sse_makes_events_of_all_items_and_sets_the_headers_that_they_need() -> None:
    items = [Event("one", id="1"), "two\nlines", {"n": 3}]
    response = sent(context().sse(items, headers={"X-A": "1"}))
    assert response.status_code == 200
    assert response.headers.getlist("Content-Type") == ["text/event-stream"]
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["X-A"] == "1"
    opening, _, events = response.data.partition(b"id: 1\n")
    assert opening.startswith(b":\n")
    assert events == b'data: one\n\ndata: two\ndata: lines\n\ndata: {"n":3}\n\n'


def test_sse_closes_what_it_was_given() -> None:
    closed: list[bool] = []

    def items() -> Iterator[str]:
        try:
            yield "one"
            yield "two"
        finally:
            closed.append(True)

    body, _, _ = run_wsgi_app(context().sse(items()), create_environ())
    assert any(b"one" in chunk for chunk in body)
    assert closed == []
    body.close()  # type: ignore[attr-defined]
    assert closed == [True]


# Redirects.


@pytest.mark.parametrize(
    ("location", "header"),
    [
        ("/here", "/here"),
        ("https://example.org/a?b=c#d", "https://example.org/a?b=c#d"),
        ("there?q=1", "there?q=1"),
        ("/größe/€", "/gr%C3%B6%C3%9Fe/%E2%82%AC"),
        ("/already%20quoted", "/already%20quoted"),
    ],
)
def test_a_redirect_says_where_to(location: str, header: str) -> None:
    response = sent(context().redirect(location))
    assert response.status_code == 302
    assert response.headers["Location"] == header
    assert response.data == b""


@pytest.mark.parametrize("status", [301, 303, 307, 308])
def test_a_redirect_may_have_another_status(status: int) -> None:
    assert sent(context().redirect("/x", status)).status_code == status


@pytest.mark.parametrize("status", [200, 299, 400])
def test_a_redirect_has_the_status_of_one(status: int) -> None:
    with pytest.raises(ValueError, match=f"a redirect has a status of 300 to 399, not {status}"):
        context().redirect("/x", status)


def test_a_redirect_cannot_smuggle_a_header() -> None:
    response = sent(context().redirect("/x\r\nSet-Cookie: a=b"))
    assert "Set-Cookie" not in response.headers
    assert "\n" not in response.headers["Location"]


# Files.


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("page.html", "text/html; charset=utf-8"),
        ("notes.txt", "text/plain; charset=utf-8"),
        ("data.json", "application/json"),
        ("logs.tar.gz", "application/gzip"),
        ("unknown.bin-ary", "application/octet-stream"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_a_file_has_the_content_type_of_its_name(
    name: str, content_type: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    response = sent(context().file(tmp_path / name))
    assert response.headers.getlist("Content-Type") == [content_type]
    assert response.headers["Content-Length"] == "5"
    assert response.data == b"bytes"


def test_a_file_may_have_another_content_type(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_bytes(b"bytes")
    response = sent(context().file(tmp_path / "x.html", "text/plain"))
    assert response.headers.getlist("Content-Type") == ["text/plain"]


@pytest.mark.parametrize("path", ["missing", "folder", "file/below", "nul\0byte", "x" * 300])
@pytest.mark.parametrize("rooted", [True, False])
def test_a_file_that_is_not_there_is_not_found(path: str, rooted: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    ctx = context()
    with pytest.raises(NotFound):
        ctx.file(path, root=tmp_path) if rooted else ctx.file(f"{tmp_path}/{path}")


def test_a_file_that_may_not_be_read_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").touch()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(Forbidden):
        context().file(tmp_path / "x")


def test_a_file_that_the_server_has_no_descriptor_for_is_the_servers_fault(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            context().file(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("download", "disposition"),
    [
        (False, None),
        (True, "attachment; filename=report.pdf"),
        ("summary.pdf", "attachment; filename=summary.pdf"),
        (
            "für €.pdf",
            "attachment; filename=\"f_r _.pdf\"; filename*=UTF-8''f%C3%BCr%20%E2%82%AC.pdf",
        ),
    ],
)
def test_a_file_may_be_a_download_under_a_name(
    download: bool | str, disposition: str | None, tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    response = sent(context().file(tmp_path / "report.pdf", download=download))
    assert response.headers.get("Content-Disposition") == disposition
    assert response.headers["Content-Type"] == "application/pdf"


def test_a_heartbeat_needs_to_know_what_to_send() -> None:
    ctx = Context(create_environ())
    with pytest.raises(ValueError, match="only an event stream knows what its heartbeat sends"):
        ctx.stream(iter(()), "text/plain", heartbeat=5)
