"""The application of test_receive.py: it reads what clients send, and has upstreams that fail."""

import http.client
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import flask

from vento_wsgi import Broker, Context, create_app, create_router

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATIENCE = 20.0  # seconds

router = create_router()
broker = Broker("memory://")
gates: defaultdict[str, Event] = defaultdict(Event)


def note(what: str) -> None:
    print("noted:", what, flush=True)  # noqa: T201


# Uploads. Each handler notes how its reading ends.


def told(environ: "WSGIEnvironment") -> bytes:
    note(f"{environ['PATH_INFO']} begins")
    try:
        data: bytes = environ["wsgi.input"].read()
    except BaseException as error:
        note(f"{environ['PATH_INFO']} {type(error).__name__}")
        raise
    return b"%d" % len(data)


def read(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    data = told(environ)
    start_response("200 OK", [])
    return [data]


def wrapped(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    try:
        data = told(environ)
    except OSError as error:
        raise RuntimeError("no upload") from error
    start_response("200 OK", [])
    return [data]


def generator(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"begun"
    yield told(environ)


def unread(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    note(f"{environ['PATH_INFO']} begins")
    start_response("200 OK", [("Content-Length", "6")])
    return [b"unread"]


def later(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    note(f"{environ['PATH_INFO']} begins")
    assert gates["later"].wait(PATIENCE)
    return read(environ, start_response)


def go(_environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    gates["later"].set()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"go"]


@router.post("/app/read")
def app_read(ctx: Context) -> Any:
    return ctx.text(str(len(ctx.request.get_data())))


@router.post("/app/stream")
def app_stream(ctx: Context) -> Any:
    return ctx.stream(ctx.request.chunks())


@router.post("/app/raw")
def app_raw(ctx: Context) -> Any:
    def echo() -> Iterator[bytes]:
        yield told(ctx.request.environ)

    return ctx.stream(echo())


@router.post("/app/events")
def app_events(ctx: Context) -> Any:
    return ctx.stream((f"data: {len(x)}\n\n" for x in ctx.request.chunks()), "text/event-stream")


@router.get("/app/news")
def app_news(ctx: Context) -> Any:
    return ctx.sse(broker.subscribe("news"))


site = flask.Flask("site")


@site.post("/flask")
def in_flask() -> str:
    return str(len(flask.request.get_data()))


@site.post("/flask/stream")
def in_a_flask_generator() -> Any:
    source = flask.request.stream

    def echo() -> Iterator[bytes]:
        yield b"begun"
        while data := source.read(10):
            yield data

    return echo(), {"Content-Type": "text/plain"}


# Upstreams of the application's own.


def pipe() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        ours.sendall(b"x")


def reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with ours:
            ours.recv(1)


def tls() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"no TLS at all" * 10)
        context = ssl.create_default_context()
        context.wrap_socket(ours, server_hostname="localhost").close()


def slow() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        ours.recv(1)


def disconnected() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        response = http.client.HTTPResponse(ours)
        response.begin()


def aborted() -> None:
    raise ConnectionAbortedError("an upstream's")


def eof() -> None:
    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "an upstream's")


UPSTREAMS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (pipe, reset, tls, slow, disconnected, aborted, eof)
}


def upstream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
    _, name, at = environ["QUERY_STRING"].split("&")
    if at == "call":
        UPSTREAMS[name]()
    headers = [("Content-Length", "10")] if at == "length" else []
    write = start_response("200 OK", headers)
    if at == "write":
        write(b"begun")
        UPSTREAMS[name]()

    def body() -> Iterator[bytes]:
        if at != "first":
            yield b"begun"
        UPSTREAMS[name]()

    return body()


@router.get("/app/upstream")
def app_upstream(ctx: Context) -> Any:
    name, at = ctx.query["name"], ctx.query["at"]
    if at == "call":
        UPSTREAMS[name]()

    def body() -> Iterator[bytes]:
        if at != "first":
            yield b"begun"
        UPSTREAMS[name]()

    return ctx.stream(body())


framework = create_app()
framework.use(router)

PATHS: dict[str, Any] = {
    "/read": read,
    "/wrapped": wrapped,
    "/generator": generator,
    "/unread": unread,
    "/later": later,
    "/go": go,
    "/upstream": upstream,
}


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Any:
    path = environ["PATH_INFO"]
    if path.startswith("/app/"):
        return framework(environ, start_response)
    if path.startswith("/flask"):
        return site(environ, start_response)
    return PATHS.get(path, unread)(environ, start_response)
