"""Applications whose middleware puts another body into a response: see WAYS."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from flask_compress import Compress

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
    """A source that records its close()."""

    def close(self) -> None:
        if not self.closed:
            closed.append("source")
        super().close()


class Rows:
    """Rows that record their close(), whether they were started or not."""

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
