"""The application of test_endings.py: streams that wait for a signal, and middleware that records.

``/go/<name>`` lets the stream of that name continue. ``/seen`` returns what the middleware around
the application saw of each response, and what each stream's ``on_end`` received.
"""

import gzip
import io
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vento_wsgi import Broker, Context, Response, create_app, create_router

router = create_router()
broker = Broker("memory://")
kept = threading.local()
going: defaultdict[str, threading.Event] = defaultdict(threading.Event)
seen: list[str] = []

LARGE = b"x" * (20 * 1024 * 1024)
MARKED = {
    "whole": [b"\xef\xbb\xbfdata: first\n\n", b"data: second\n\n"],
    "cut": [b"\xef", b"\xbb", b"\xbfda", b"ta: first\n\n", b"data: second\n\n"],
    "alone": [b"\xef\xbb\xbf", b"data: first\n\n", b"data: second\n\n"],
    "none": [
        b"data: first\n\n",
        b"\xef\xbb\xbfdata: lost, by the standard\n\n",
        b"data: second\n\n",
    ],
    "nothing else": [b"\xef\xbb\xbf"],
    "half": [b"\xef\xbb"],
}


def options(ctx: Context) -> dict[str, Any]:
    given: dict[str, Any] = {"on_end": lambda ending: seen.append(str(ending.reason))}
    if "drain" in ctx.query:
        given["drain"] = ctx.query["drain"]
    if "deadline" in ctx.query:
        given["deadline"] = float(ctx.query["deadline"])
    if "send_timeout" in ctx.query:
        given["send_timeout"] = float(ctx.query["send_timeout"])
    return given


@router.route("/waits/<name>", methods=["GET", "POST"])
def waits(ctx: Context) -> Response:
    def chunks() -> Iterator[str]:
        yield "data: first\n\n"
        going[ctx.params["name"]].wait()
        yield "data: last\n\n"

    kind = ctx.query.get("type", "text/event-stream")
    return ctx.stream(chunks(), kind, **options(ctx))


@router.post("/until-drained")
def until_drained(ctx: Context) -> Response:
    def chunks() -> Iterator[str]:
        yield "data: first\n\n"
        while not ctx.draining:
            time.sleep(0.01)
        yield "data: last\n\n"

    return ctx.stream(chunks(), "text/event-stream", **options(ctx))


@router.route("/fails/<name>", methods=["GET", "POST"])
def fails(ctx: Context) -> Response:
    def chunks() -> Iterator[str]:
        yield "data: first\n\n"
        going[ctx.params["name"]].wait()
        raise RuntimeError("the model is gone")

    return ctx.stream(chunks(), ctx.query.get("type", "text/event-stream"), **options(ctx))


@router.route("/news", methods=["GET", "POST"])
def news(ctx: Context) -> Response:
    return ctx.sse(broker.subscribe("news"), **options(ctx))


@router.get("/marked/<how>")
def marked(ctx: Context) -> Response:
    return ctx.stream(iter(MARKED[ctx.params["how"]]), "text/event-stream")


@router.get("/local")
def local(ctx: Context) -> Response:
    def chunks() -> Iterator[str]:
        yield f"{getattr(kept, 'user', 'nobody')}\n"
        kept.user = ctx.query["user"]
        yield "done\n"

    return ctx.stream(chunks(), "text/plain")


@router.get("/large/<kind>")
def large(ctx: Context) -> Response:
    if ctx.params["kind"] == "bytes":
        return Response(LARGE)
    return ctx.stream(iter([LARGE]), **options(ctx))


@router.get("/go/<name>")
def go(ctx: Context) -> Response:
    going[ctx.params["name"]].set()
    return ctx.text("")


@router.get("/seen")
def told(ctx: Context) -> Response:
    return ctx.json(seen)


@router.get("/memory")
def memory(ctx: Context) -> Response:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return ctx.json(int(pages) * os.sysconf("SC_PAGE_SIZE"))


@router.get("/pid")
def pid(ctx: Context) -> Response:
    return ctx.json(os.getpid())


application = create_app()
application.use(router)

CONTENT = b"0123456789" * 10_000


def files(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A file that was partly read before it was given to wsgi.file_wrapper."""
    opened = OPENED[environ["PATH_INFO"].removeprefix("/files/")](*tempfile.mkstemp())
    opened.read(4)
    start_response("200 OK", [("Content-Length", str(len(CONTENT) - 4))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return wrapped


def written(content: bytes, fd: int, path: str) -> str:
    with open(fd, "wb") as file:
        file.write(content)
    return path


def unflushed(fd: int, _: str) -> Any:
    file = open(fd, "w+b")  # noqa: SIM115
    file.write(CONTENT)
    file.seek(0)
    return file


class Reads:
    """A file that has only what PEP 3333 requires, and fileno()."""

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self.close = file.close
        self.fileno = file.fileno


def temporary(fd: int, _: str) -> Any:
    os.close(fd)
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(CONTENT)
    file.seek(0)
    return file


OPENED: dict[str, Any] = {
    "buffered": lambda fd, path: open(written(CONTENT, fd, path), "rb"),  # noqa: SIM115
    "unbuffered": lambda fd, path: io.FileIO(written(CONTENT, fd, path)),
    "untold": lambda fd, path: Reads(open(written(CONTENT, fd, path), "rb")),  # noqa: SIM115
    "unflushed": unflushed,
    "temporary": temporary,
    "gzip": lambda fd, path: gzip.open(written(gzip.compress(CONTENT), fd, path)),  # noqa: SIM115
}


def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Responses that are not Streams."""
    kind = environ["PATH_INFO"].removeprefix("/plain/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if kind == "list":
        return [LARGE]
    return (LARGE for _ in range(3))


class Watched:
    """A body wrapped by foreign middleware: iterates and closes it, and records what it raises."""

    def __init__(self, body: Any, path: str) -> None:
        self._body = body
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                seen.append(f"{type(error).__name__} out of {self._path}")
            raise

    def close(self) -> None:
        if hasattr(self._body, "close"):
            self._body.close()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/files/"):
        return files(environ, start_response)
    if path.startswith("/plain/"):
        return plain(environ, start_response)
    if "watched" not in environ.get("QUERY_STRING", ""):
        return application(environ, start_response)

    def own(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, headers, exc_info)

    return Watched(application(environ, own), path)
