"""Streams as Flask's responses: by its test client, and on real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import brotli  # type: ignore[import-untyped]
import flask
import pytest
from apps import flask_extensions
from support.fixtures import served
from support.servers import OPENING, Body, Running, connect, eventually, get
from support.sites import GEVENT, assert_parked, noted, reads, served_sites

from vento_wsgi import BodyError, Broker, StreamAborted, decode
from vento_wsgi.contrib.flask import file, last_event_id, sse, stream
from vento_wsgi.streaming.stream import FAILED

server = served_sites(*GEVENT, "gunicorn-gthread")


under_gevent = pytest.mark.parametrize("server", GEVENT, indirect=True)
under_gevent_extended = pytest.mark.parametrize("extended", GEVENT, indirect=True)


# On servers.


def test_a_generator_has_the_context_of_its_request(server: Running) -> None:
    head, body = get(server, "/flask/context?say=here")
    assert body == Body(b"here /context /flask/\n" * 2, complete=True)
    assert head.headers["X-After"] == "True"
    assert head.headers["X-Own"] == "yes"
    assert head.headers["Content-Type"] == "text/plain"
    noted(server, "teardown /context")


@under_gevent
def test_a_client_that_leaves_ends_the_generator_in_its_context(server: Running) -> None:
    with connect(server) as raw:
        raw.request("GET", "/flask/waits")
        reads(raw, b"flask first\n")
    noted(server, "flask: GeneratorExit", "finally /waits")
    assert "Traceback" not in server.log()


def test_a_blueprint_has_events(server: Running) -> None:
    head, body = get(server, "/flask/live/events", "Last-Event-ID: 7")
    assert head.headers["X-Accel-Buffering"] == "no"
    assert body == Body(b':\nretry: 3000\ndata: {"last":"7"}\n\n', complete=True)


@under_gevent
def test_a_subscription_is_parked(server: Running) -> None:
    assert_parked(server, "/flask/live/news")
    noted(server, "flask news closed")


def test_a_file_has_ranges_and_validators(server: Running) -> None:
    head, body = get(server, "/flask/data")
    assert body.complete
    assert len(body.data) == 300_000
    assert head.headers["Content-Disposition"].startswith("attachment; filename=")
    part, some = get(server, "/flask/data", "Range: bytes=5-9")
    assert (part.status, some.data) == (206, body.data[5:10])
    assert get(server, "/flask/data", f"If-None-Match: {head.headers['ETag']}")[0].status == 304
    assert get(server, "/flask/files/none")[0].status == 404
    assert get(server, "/flask/data", method="HEAD")[0].headers["Content-Length"] == "300000"


# What after_request functions and extensions do to a body.


extended = served("apps.flask_extensions:app", *GEVENT, "gunicorn-gthread")


def notes(server: Running) -> list[str]:
    told: list[str] = json.loads(get(server, "/notes")[1].data)
    return told


def once(server: Running, note: str) -> None:
    eventually(lambda: note in notes(server), explain=lambda: str(notes(server)))
    assert notes(server).count(note) == 1


@pytest.mark.parametrize("operation", flask_extensions.OPERATIONS)
def test_whatever_is_done_to_a_native_generator_may_be_done_to_a_stream(
    extended: Running, operation: str
) -> None:
    head, body = get(extended, f"/native/{operation}")
    got, data = get(extended, f"/generator/{operation}")
    assert body.complete
    assert data == Body(body.data.replace(b"native", b"generator"), complete=True) or (
        data == Body(body.data.replace(b"NATIVE", b"GENERATOR"), complete=True)
    )
    for name in ("ETag", "Content-Length", "X-Data"):
        assert (name in got.headers) == (name in head.headers)
    once(extended, f"closed /generator/{operation}?")
    for kind in ("iterable", "sse", "text", "told"):
        head, body = get(extended, f"/{kind}/{operation}")
        assert (head.status, body.complete) == (200, True)
        text = body.data.decode().lower()
        assert ("text" if kind == "text" else "ü") in text
        if kind in ("iterable", "sse"):
            once(extended, f"closed /{kind}/{operation}?")
    assert "Traceback" not in extended.log()


def test_a_stream_whose_body_is_read_has_its_ending_told(extended: Running) -> None:
    def told() -> int:
        return notes(extended).count("ended exhausted")

    for kind in ("told", "text"):
        for operation in ("nothing", "get_data", "set_data", "freeze", "replace"):
            before = told()
            assert get(extended, f"/{kind}/{operation}?told")[0].status == 200
            eventually(lambda: told() > before)  # noqa: B023
            assert told() == before + 1


@pytest.mark.parametrize("kind", ["native", "generator", "iterable"])
def test_an_etag_that_was_made_of_a_stream_is_found_again(extended: Running, kind: str) -> None:
    path = f"/{kind}/conditional?again"
    head, body = get(extended, path)
    tag = head.headers["ETag"]
    assert int(head.headers["Content-Length"]) == len(body.data)
    again = get(extended, path, f"If-None-Match: {tag}")
    assert (again[0].status, again[1].data) == (304, b"")
    assert get(extended, path, method="HEAD")[0].headers["ETag"] == tag
    eventually(lambda: notes(extended).count(f"closed {path}") == 3)


def test_an_extension_compresses_a_stream(extended: Running) -> None:
    for operation in ("nothing", "get_data"):
        path = f"/generator/{operation}?compressed"
        head, body = get(extended, path, "Accept-Encoding: br")
        assert head.headers["Content-Encoding"] == "br"
        assert body.complete
        decoded = brotli.decompress(body.data).decode()
        assert decoded == "".join(f"/generator/{operation} {n} ü" for n in range(3))
        once(extended, f"closed {path}")
    assert "Traceback" not in extended.log()


@under_gevent_extended
def test_a_stream_that_an_extension_compresses_ends_when_its_client_leaves(
    extended: Running,
) -> None:
    with connect(extended) as raw:
        head = raw.request("GET", "/waits?br", "Accept-Encoding: br")
        assert head.headers["Content-Encoding"] == "br"
    once(extended, "left /waits?br")
    assert "Traceback" not in extended.log()


def test_an_extension_caches_a_stream_that_is_frozen(extended: Running) -> None:
    for kind in ("generator", "sse", "iterable"):
        path = f"/cached/{kind}"
        first = get(extended, path)[1]
        assert first.complete
        assert get(extended, path)[1] == first
        once(extended, f"made {path}?")
        once(extended, f"closed {path}?")


# By the test client.


class Own(flask.Response):
    pass


def make(view: Any, response_class: Any = flask.Response) -> flask.Flask:
    app = flask.Flask(__name__)
    app.response_class = response_class
    app.add_url_rule("/", view_func=view, endpoint="view", methods=["GET", "POST"])
    return app


@pytest.mark.parametrize("response_class", [flask.Response, Own])
@pytest.mark.parametrize(
    "make_response",
    [
        lambda: stream(iter(["a"])),
        lambda: sse(["a"]),
        lambda: file(__file__),
        lambda: sse(Broker("memory://").subscribe("a")),
    ],
    ids=["stream", "sse", "file", "subscription"],
)
def test_what_is_returned_is_a_response_of_the_application(
    make_response: Any, response_class: Any
) -> None:
    seen: list[Any] = []

    def view() -> Any:
        seen.append(make_response())
        return seen[0]

    app = make(view, response_class)

    @app.after_request
    def after(response: Any) -> Any:
        assert response is seen[0]
        response.headers["X-After"] = "yes"
        return response

    with app.test_client().get("/", buffered=False) as response:
        assert response.headers["X-After"] == "yes"
    assert type(seen[0]).__mro__.index(response_class) > 0
    assert isinstance(seen[0], response_class)


def test_the_generator_is_not_begun_by_head_and_is_closed_all_the_same() -> None:
    class Source:
        closed = begun = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> str:
            self.begun += 1
            raise StopIteration

        def close(self) -> None:
            self.closed += 1

    source = Source()
    app = make(lambda: stream(source))
    app.test_client().head("/").close()
    assert (source.begun, source.closed) == (0, 1)
    assert app.test_client().get("/").data == b""
    assert (source.begun, source.closed) == (1, 2)


def test_an_iterable_has_the_context_as_well_and_is_closed() -> None:
    class Lines:
        closed = 0

        def __iter__(self) -> Iterator[str]:
            yield flask.request.path

        def close(self) -> None:
            self.closed += 1

    lines = Lines()
    assert make(lambda: stream(lines, "text/plain")).test_client().get("/").text == "/"
    assert lines.closed == 1


def test_a_generator_may_read_the_request() -> None:
    def view() -> Any:
        return stream((f"{flask.request.data.decode()} {n} " for n in range(2)), "text/plain")

    with make(view).test_client() as client:
        assert client.post("/", data="body").text == "body 0 body 1 "


def test_policies_headers_and_status_are_taken() -> None:
    endings: list[Any] = []

    def view() -> Any:
        return stream(
            iter(["a"]),
            "text/a",
            status=202,
            headers={"X-A": "b", "Connection": "close"},
            on_end=endings.append,
        )

    response = make(view).test_client().get("/")
    assert (response.status_code, response.data) == (202, b"a")
    assert response.headers["X-A"] == "b"
    assert "Connection" not in response.headers
    assert [ending.reason for ending in endings] == ["exhausted"]


def test_a_body_that_is_none_is_refused_by_name() -> None:
    app = make(lambda: stream({"a": 1}))
    app.testing = True
    with pytest.raises(BodyError, match="a body cannot be dict: use"):
        app.test_client().get("/")


def test_an_id_that_no_server_has_sent_is_a_400() -> None:
    app = make(lambda: sse([last_event_id()]))
    assert app.test_client().get("/", headers={"Last-Event-ID": "a" * 2000}).status_code == 400
    found = app.test_client().get("/?lastEventId=8")
    assert [event.data for event in decode([found.data]) if event.data] == ["8"]


def test_a_failure_is_an_error_event() -> None:
    def view() -> Any:
        def fails() -> Iterator[str]:
            yield "one"
            raise RuntimeError("broken")

        return sse(fails())

    got = []
    with make(view).test_client().get("/", buffered=False) as response:
        chunks = response.iter_encoded()
        with suppress(StreamAborted):
            while True:
                got.append(next(chunks))
    assert b"".join(got) == OPENING + b"data: one\n\n" + FAILED
