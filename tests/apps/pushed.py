"""The application of test_pushed.py: bare WSGI callables and streams, and a look at the process."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vento_wsgi import Context, Response, create_app, create_router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

router = create_router()

COMPUTES = 0.3
"""Seconds for which a source computes, without a wait, before a chunk."""


def computed(chunk: bytes) -> bytes:
    until = time.perf_counter() + COMPUTES
    while time.perf_counter() < until:
        pass
    return b"%b %f\n" % (chunk, time.time())


def source(kind: str, port: int) -> Iterator[bytes]:
    yield b"first "
    yield b"second "
    if kind == "waits":
        with socket.create_connection(("127.0.0.1", port)) as gate:
            gate.sendall(b"?")
            gate.recv(1)
        yield b"third "
        yield b"last"
    elif kind == "computes":
        for number in range(4):
            yield computed(b"%d" % number)


LARGE = 30_000_000


def large(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """One large item, whose length is known."""
    start_response("200 OK", [("Content-Length", str(LARGE))])
    return [b"x" * LARGE]


def writes(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Calls write() from within its iterable, which gunicorn's own workers allow."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"a")
    yield b"b"
    yield b"c"
    write(b"d")
    yield b"e"


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI callable without any framework: /bare/KIND/PORT."""
    _, kind, port = environ["PATH_INFO"].split("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return source(kind, int(port))


@router.get("/ours/<kind>/<int:port>")
def ours(ctx: Context) -> Response:
    return ctx.stream(source(ctx.params["kind"], ctx.params["port"]), "text/plain")


@router.get("/ready")
def ready(ctx: Context) -> Response:
    return ctx.stream(source("ready", 0), "text/plain")


@router.get("/text")
def text(ctx: Context) -> Response:
    return ctx.text("text")


def count(kind: type) -> int:
    return sum(
        isinstance(thing, kind) and not getattr(thing, "dead", False) for thing in gc.get_objects()
    )


@router.get("/greenlets")
def greenlets(ctx: Context) -> Response:
    """How many greenlets there are."""
    from greenlet import greenlet

    gc.collect()
    return ctx.text(str(count(greenlet)))


@router.get("/gc/<what>")
def garbage(ctx: Context) -> Response:
    """Turn the garbage collector off, or on again and say how many objects it has found."""
    found: Any = gc.collect()
    if ctx.params["what"] == "off":
        gc.disable()
    else:
        gc.enable()
    return ctx.text(str(found))


app = create_app()
app.use(router)
app.mount("/bare", bare)
app.mount("/large", large)
app.mount("/writes", writes)
