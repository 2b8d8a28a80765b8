"""The applications of test_leaks.py: each kind of response, and a count of what they leave behind.

/bare/KIND is served as it is, /guarded/KIND below a StreamGuard; /census counts.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wsgi import FileWrapper

from vento_wsgi import Broker, create_app, create_router
from vento_wsgi.middleware import StreamGuard, compress
from vento_wsgi.streaming.greenlet_pump import _sources
from vento_wsgi.streaming.ticker import process_ticker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from vento_wsgi import Context, Response

TEXT = ("Content-Type", "text/plain")
FOLDER = tempfile.mkdtemp()
FILE = os.path.join(FOLDER, "data")
with open(FILE, "wb") as made:
    made.write(bytes(8 * 1024 * 1024))  # more than the buffers of a socket hold
SMALL = os.path.join(FOLDER, "small")
with open(SMALL, "wb") as made:
    made.write(b"small")


# Plain applications.


class Closing(Iterator[bytes]):
    """An iterator with something to close."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.file = open(SMALL, "rb")  # noqa: SIM115 – closed by close()

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        self.file.close()
        if hasattr(self.chunks, "close"):
            self.chunks.close()


class ClosingList(list[bytes]):
    """A list with something to close."""

    def close(self) -> None:
        self.clear()


def brief() -> Iterator[bytes]:
    yield b"first"
    yield b"second"


def ticks() -> Iterator[bytes]:
    while True:
        yield b"data: first\n\n"
        threading.Event().wait(0.01)


def fails() -> Iterator[bytes]:
    yield b"first"
    raise RuntimeError("broken")


def wrapped(path: str) -> Callable[[WSGIEnvironment], Iterable[bytes]]:
    def body(environ: WSGIEnvironment) -> Iterable[bytes]:
        opened = open(path, "rb")  # noqa: SIM115 – the server closes it
        wrapper: Any = environ.get("wsgi.file_wrapper", FileWrapper)
        return wrapper(opened)  # type: ignore[no-any-return]

    return body


def written(start_response: StartResponse) -> Iterable[bytes]:
    write: Any = start_response("200 OK", [TEXT])
    write(b"first")
    return [b"second"]


PLAIN: dict[str, Callable[[WSGIEnvironment], Any]] = {
    "list": lambda _: [b"first", b"second"],
    "tuple": lambda _: (b"first",),
    "closing-list": lambda _: ClosingList([b"first"]),
    "generator": lambda _: brief(),
    "iterator": lambda _: Closing(brief()),
    "ticks": lambda _: Closing(ticks()),
    "file-wrapper": wrapped(SMALL),
    "large-file-wrapper": wrapped(FILE),
    "plain-fails": lambda _: Closing(fails()),
}


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    kind = environ["PATH_INFO"].strip("/")
    if kind == "write":
        return written(start_response)
    if kind == "raises":
        raise RuntimeError("broken")
    if kind == "raises-at-first":
        return raises_at_first(start_response)
    start_response("200 OK", [TEXT])
    return PLAIN[kind](environ)  # type: ignore[no-any-return]


def raises_at_first(start_response: StartResponse) -> Iterator[bytes]:
    yield from fails_to_start(start_response)


def fails_to_start(_start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("broken")


# Responses of vento_wsgi.

router = create_router()
broker = Broker("memory://")


@router.get("/text")
def text(ctx: Context) -> Response:
    return ctx.text("text")


@router.get("/stream")
def stream(ctx: Context) -> Response:
    response = ctx.stream(brief(), "text/plain")
    response.call_on_close(lambda: None)
    return response


@router.get("/sse")
def sse(ctx: Context) -> Response:
    return ctx.sse([{"n": 1}, {"n": 2}])


@router.get("/file")
def file(ctx: Context) -> Response:
    return ctx.file(SMALL)


@router.get("/large-file")
def large_file(ctx: Context) -> Response:
    return ctx.file(FILE)


@router.get("/none")
def none(ctx: Context) -> Response:
    return ctx.stream(brief(), status=204)


@router.get("/fails")
def failing(ctx: Context) -> Response:
    return ctx.stream(fails(), "text/plain")


@router.get("/error")
def error(_ctx: Context) -> Response:
    raise RuntimeError("broken")


@router.get("/live")
def live(ctx: Context) -> Response:
    return ctx.sse(ticks())


@router.get("/waits")
def waits(ctx: Context) -> Response:
    def lines() -> Iterator[str]:
        yield "data: first\n\n"
        threading.Event().wait()

    return ctx.stream(lines(), "text/plain")


@router.get("/news")
def news(ctx: Context) -> Response:
    return ctx.sse(broker.subscribe("news"))


def ours(*middleware: Any) -> WSGIApplication:
    app = create_app()
    for each in middleware:
        app.use(each)
    app.use(router)
    return app


# The census.


def census(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Counts of everything that a response could leave behind."""
    from gevent import get_hub
    from greenlet import greenlet

    gc.collect()
    found: Counter[str] = Counter()
    things = gc.get_objects()
    for thing in things:
        kind = type(thing)
        if str(kind.__module__).startswith("gevent.libev") and kind.__name__ != "callback":
            found[f"a watcher: {kind.__name__}"] += 1
        elif isinstance(thing, greenlet) and not thing.dead:
            found["greenlet"] += 1
    found["greenlet"] -= len(_sources(get_hub()))  # kept for other streams: as many as met at once
    found["active watchers"] = get_hub().loop.activecnt
    found["the ticker's members"] = len(process_ticker(cooperative=True).members)
    found["the ticker's suspects"] = len(process_ticker(cooperative=True).suspects)
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["threads"] = len(sys._current_frames())
    found["objects of any kind"] = len(things)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]


bare = DispatcherMiddleware(plain, {"/ours": ours(), "/compressed": ours(compress())})
app = DispatcherMiddleware(
    census,
    {"/bare": bare, "/guarded": StreamGuard(bare), "/nested": StreamGuard(StreamGuard(bare))},
)
