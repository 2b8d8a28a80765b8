"""Middleware that puts another body into a response: that body is sent, and both are closed."""

import gzip
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from flask_compress import Compress
from support.servers import Running, connect, eventually, serve

from vento_wsgi import Broker, Context, Response, create_app, create_router
from vento_wsgi.contrib import flask
from vento_wsgi.middleware import compress

FILE = Path(__file__)
OLD = FILE.read_bytes()
NEW = b"<p>Something else.</p>\n" * 50

broker = Broker("memory://")
closed: list[str] = []
"""The names of the sources that were closed."""


class Source(io.BytesIO):
    """A source that says when it is closed."""

    def close(self) -> None:
        if not self.closed:
            closed.append("source")
        super().close()


class Rows:
    """Rows of which it is known that they were closed, begun or not."""

    def __iter__(self) -> Iterator[str]:
        return iter(("old 1\n", "old 2\n"))

    def close(self) -> None:
        closed.append("source")


BODIES: dict[str, Callable[[Context], Response]] = {
    "file": lambda ctx: ctx.file(FILE),
    "memory": lambda ctx: ctx.stream(Source(OLD), "text/plain"),
    "stream": lambda ctx: ctx.stream(Rows(), "text/plain"),
    "options": lambda ctx: ctx.stream(Rows(), "text/plain", deadline=60),
    "events": lambda ctx: ctx.sse(Rows()),
    "subscription": lambda ctx: ctx.sse(broker.subscribe("news")),
    "text": lambda ctx: ctx.text("old"),
}


def set_data(response: Any) -> None:
    response.set_data(NEW)


def data(response: Any) -> None:
    response.data = NEW.decode()


def a_list(response: Any) -> None:
    response.response = [NEW[:5], NEW[5:].decode()]


def a_generator(response: Any) -> None:
    response.response = (NEW[at : at + 100] for at in range(0, len(NEW), 100))


def a_file(response: Any) -> None:
    response.response = io.BytesIO(NEW)


def not_passed_through(response: Any) -> None:
    response.direct_passthrough = False
    response.response = (NEW[at : at + 100] for at in range(0, len(NEW), 100))


def as_json(response: Any) -> None:
    response.content_type = "application/json"
    a_generator(response)


REPLACE = (set_data, data, a_list, a_generator, a_file, not_passed_through)
OTHER_WAYS = {
    "wrapped": lambda response: setattr(
        response, "response", (chunk.upper() for chunk in response.iter_encoded())
    ),
    "wrapped as it is": lambda response: setattr(
        response, "response", (bytes(chunk).upper() for chunk in response.response)
    ),
    "collected": lambda response: response.make_sequence(),
    "frozen": lambda response: response.freeze(),
    "not found": lambda response: setattr(response, "status_code", 404),
    "json": as_json,
    "as it was": lambda _: None,
}
WAYS: dict[str, Callable[[Any], object]] = {
    **{way.__name__: way for way in REPLACE},
    **OTHER_WAYS,
}

router = create_router()


@router.get("/<body>/<way>")
def replaced(ctx: Context) -> Response:
    response = BODIES[ctx.params["body"]](ctx)
    response.call_on_close(lambda: closed.append("response"))
    return response


@router.get("/")
def what_was_closed(ctx: Context) -> Response:
    said = ",".join(closed)
    closed.clear()
    return ctx.text(said)


app = create_app()


@app.use
def replace(ctx: Context, next: Callable[[], Any]) -> Any:
    response = next()
    if "way" in ctx.params:
        WAYS[ctx.params["way"]](response)
    return response


app.use(router)

coded = create_app()
coded.use(compress(files=True, minimum=1))
coded.use(replace)
coded.use(router)

site = Flask("site")
site.config["COMPRESS_MIMETYPES"] = ["text/plain", "text/event-stream", "text/x-python"]
site.config["COMPRESS_ALGORITHM_STREAMING"] = ["gzip"]
Compress(site)


@site.get("/")
def here() -> str:
    return ",".join(closed)


@site.get("/<name>")
def flasks(name: str) -> FlaskResponse:
    if name == "file":
        return flask.file(FILE, "text/x-python")
    if name == "memory":
        return flask.stream(io.BytesIO(OLD), "text/plain")
    if name == "events":
        return flask.sse(f"event {number}" for number in range(1000))
    return flask.stream((b"%d\n" % number for number in range(1000)), "text/plain")


@site.after_request
def as_asked(response: FlaskResponse) -> FlaskResponse:
    if "data" in flask_request.args:
        response.set_data(NEW)
    return response


SERVERS = ("gunicorn-StreamWorker", "waitress")


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("replaced")
    with serve(request.param, "test_replaced_bodies:app", cwd=FILE.parent, tmp=tmp) as running:
        yield running


@pytest.fixture(scope="module")
def flask_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp, target = tmp_path_factory.mktemp("flask"), "test_replaced_bodies:site"
    with serve("gunicorn-StreamWorker", target, cwd=FILE.parent, tmp=tmp) as running:
        yield running


@pytest.fixture(scope="module")
def coding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp, target = tmp_path_factory.mktemp("coded"), "test_replaced_bodies:coded"
    with serve("gunicorn-StreamWorker", target, cwd=FILE.parent, tmp=tmp) as running:
        yield running


def text_of(running: Running, target: str) -> str:
    with connect(running) as raw:
        raw.request("GET", target)
        return raw.read_all().data.decode()


def unopened(events: bytes) -> bytes:
    """An event stream without the comment and the retry that open it."""
    return re.sub(rb"\A:\n(retry: \d+\n)?", b"", events)


def closings(running: Running) -> list[str]:
    """What was closed since this was last asked, the response being the last."""
    told: list[str] = []

    def over() -> bool:
        told.extend(filter(None, text_of(running, "/").split(",")))
        return "response" in told

    eventually(over)
    return told


@pytest.mark.parametrize("way", [way.__name__ for way in REPLACE])
@pytest.mark.parametrize("body", BODIES)
def test_the_new_body_is_sent_whole_and_nothing_that_was_said_of_the_old_one(
    running: Running, body: str, way: str
) -> None:
    with connect(running) as raw:
        head = raw.request("GET", f"/{body}/{way}", "Range: bytes=0-9", 'If-None-Match: "x"')
        sent = raw.read_all()
    assert head.status == 200
    # what replaces events is an event stream as well, and is opened as one
    assert (unopened(sent.data) if body in ("events", "subscription") else sent.data) == NEW
    assert sent.complete
    assert head.headers.get("Content-Length") in (None, str(len(NEW)))
    described = {"ETag", "Last-Modified", "Accept-Ranges", "Content-Range"}
    assert not described & set(head.headers.keys())
    source = ["source"] if body in ("memory", "stream", "options", "events") else []
    assert closings(running) == [*source, "response"]


@pytest.mark.parametrize("way", ["wrapped", "wrapped as it is"])
def test_a_wrapper_of_the_body_has_all_of_it(running: Running, way: str) -> None:
    way = way.replace(" ", "%20")
    assert text_of(running, f"/file/{way}") == OLD.decode().upper()
    assert closings(running) == ["response"]
    assert text_of(running, f"/stream/{way}") == "OLD 1\nOLD 2\n"
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("way", ["collected", "frozen"])
def test_a_body_that_is_collected_is_sent_with_its_length(running: Running, way: str) -> None:
    for body, data in {"file": OLD, "stream": b"old 1\nold 2\n"}.items():
        with connect(running) as raw:
            head = raw.request("GET", f"/{body}/{way}")
            assert raw.read_all().data == data
        assert head.headers["Content-Length"] == str(len(data))
        assert closings(running)[-1] == "response"


def test_a_file_that_becomes_an_error_page_has_no_validators(running: Running) -> None:
    with connect(running) as raw:
        head = raw.request("GET", "/file/not%20found")
        assert head.status == 404
        assert raw.read_all().data == OLD
    assert closings(running) == ["response"]
    assert head.headers["Content-Length"] == str(len(OLD))
    assert not {"ETag", "Last-Modified", "Accept-Ranges"} & set(head.headers.keys())


def test_what_is_no_event_stream_any_more_gets_nothing_of_one(running: Running) -> None:
    with connect(running) as raw:
        raw.request("GET", "/events/json")
        assert raw.read_all().data == NEW
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_nobody_replaced_is_what_it_was(running: Running, method: str) -> None:
    with connect(running) as raw:
        head = raw.request(method, "/file/as%20it%20was", "Range: bytes=0-9")
        assert head.status == (206 if method == "GET" else 200)
        assert raw.read_all().data == (OLD[:10] if method == "GET" else b"")
        assert "ETag" in head.headers
    assert closings(running) == ["response"]


def test_head_of_a_replaced_body_has_its_length_and_closes_both(running: Running) -> None:
    with connect(running) as raw:
        head = raw.request("HEAD", "/stream/set_data")
    assert head.headers["Content-Length"] == str(len(NEW))
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("way", [way.__name__ for way in REPLACE])
@pytest.mark.parametrize("body", [body for body in BODIES if body != "subscription"])
def test_compress_codes_the_new_body(coding: Running, body: str, way: str) -> None:
    with connect(coding) as raw:
        head = raw.request("GET", f"/{body}/{way}", "Accept-Encoding: gzip")
        sent = raw.read_all()
    assert sent.complete
    assert head.headers["Content-Encoding"] == "gzip"
    assert unopened(gzip.decompress(sent.data)) == NEW
    closings(coding)


@pytest.mark.parametrize("name", ["file", "memory", "events", "stream"])
def test_flask_compress_codes_a_stream(flask_site: Running, name: str) -> None:
    with connect(flask_site) as raw:
        raw.ask("GET", f"/{name}", "Connection: close")
        raw.read_head()
        plain = raw.read_all().data
    with connect(flask_site) as raw:
        head = raw.request("GET", f"/{name}", "Accept-Encoding: gzip", "Range: bytes=0-9")
        coded = raw.read_all()
        assert head.status == 200
        assert coded.complete
        assert head.headers["Content-Encoding"] == "gzip"
        assert not {"Content-Length", "Accept-Ranges"} & set(head.headers.keys())
        # nothing of ours may be put between the bytes of a coding, not even before events
        assert gzip.decompress(coded.data) == unopened(plain)
        assert raw.request("GET", "/").status == 200


@pytest.mark.parametrize("name", ["file", "memory", "events", "stream"])
def test_flask_compress_codes_what_was_put_there(flask_site: Running, name: str) -> None:
    with connect(flask_site) as raw:
        head = raw.request("GET", f"/{name}?data", "Accept-Encoding: gzip")
        coded = raw.read_all()
        assert coded.complete
        assert head.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(coded.data) == NEW
        assert raw.request("GET", "/").status == 200
