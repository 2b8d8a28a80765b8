"""A Flask site with extensions that read, cache and compress the bodies of responses.

Each path says what is done to a body: /KIND/OPERATION; see test_contrib_flask.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
from flask_caching import Cache
from flask_compress import Compress

from vento_wsgi.contrib import flask as in_flask

app = flask.Flask(__name__)
app.config["CACHE_TYPE"] = "SimpleCache"
app.config["COMPRESS_MIN_SIZE"] = 1
Compress(app)
cache = Cache(app)
notes: list[str] = []


def lines() -> Iterator[str]:
    try:
        for number in range(3):
            yield f"{flask.request.path} {number} ü"
            threading.Event().wait(0.001)
    finally:
        notes.append(f"closed {flask.request.full_path}")


class Lines:
    """An iterable that is no iterator, and is closed."""

    def __iter__(self) -> Iterator[str]:
        yield from ("one ü", flask.request.path)

    def close(self) -> None:
        notes.append(f"closed {flask.request.full_path}")


def native(body: Any) -> flask.Response:
    return flask.Response(flask.stream_with_context(body), content_type="text/plain")


KINDS: dict[str, Callable[[], flask.Response]] = {
    "native": lambda: native(lines()),
    "generator": lambda: in_flask.stream(lines(), "text/plain"),
    "iterable": lambda: in_flask.stream(Lines(), "text/plain"),
    "sse": lambda: in_flask.sse(lines()),
    "text": lambda: in_flask.stream("text", "text/plain", on_end=ended),
    "told": lambda: in_flask.stream(lines(), "text/plain", on_end=ended),
}


def ended(ending: Any) -> None:
    notes.append(f"ended {ending.reason}")


def conditional(response: flask.Response) -> None:
    response.add_etag()
    response.make_conditional(flask.request)


def collect(response: flask.Response) -> None:
    response.headers["X-Data"] = str(len(response.get_data()))


def change(response: flask.Response) -> None:
    response.set_data(response.data.upper())


def replace(response: flask.Response) -> None:
    body = response.iter_encoded()
    response.response = (part.upper() for part in body)


def append(response: flask.Response) -> None:
    response.stream.write(b"more")


def measure(response: flask.Response) -> None:
    response.headers["X-Data"] = str(response.calculate_content_length())


OPERATIONS: dict[str, Callable[[flask.Response], object]] = {
    "nothing": lambda _: None,
    "get_data": collect,
    "as_text": lambda response: response.get_data(as_text=True),
    "add_etag": lambda response: response.add_etag(),
    "conditional": conditional,
    "set_data": change,
    "replace": replace,
    "append": append,
    "measure": measure,
    "make_sequence": lambda response: response.make_sequence(),
    "freeze": lambda response: response.freeze(),
    "json": lambda response: response.get_json(force=True, silent=True),
    "repr": repr,
}


@app.get("/<kind>/<operation>")
def view(kind: str, operation: str) -> flask.Response:
    made = KINDS[kind]()

    @flask.after_this_request
    def after(response: flask.Response) -> flask.Response:
        assert response is made
        OPERATIONS[operation](response)
        return response

    return made


@app.get("/cached/<kind>")
@cache.cached(timeout=60, query_string=True)
def cached(kind: str) -> flask.Response:
    notes.append(f"made {flask.request.full_path}")
    made = KINDS[kind]()
    made.freeze()
    return made


@app.get("/waits")
def waits() -> flask.Response:
    def body() -> Iterator[str]:
        try:
            yield "first " * 9000
            threading.Event().wait(20)
        finally:
            notes.append(f"left {flask.request.full_path}")

    return in_flask.stream(body(), "text/plain", heartbeat=None)


@app.get("/notes")
def noted() -> Any:
    return flask.jsonify(notes)


@app.get("/")
def index() -> str:
    return "index"
