"""The application of the differential tests: plain WSGI callables, as they were before frameworks.

Nothing here depends on the server. The query says what a callable should do. What happened to it
is written to $JOURNAL, one line per fact, in order.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs

import gevent
from gunicorn.workers.base_async import ALREADY_HANDLED

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = bytes(33 + number * number % 89 for number in range(89)) + b"\n"
PATIENCE = 20.0  # seconds; longer than a test waits, so that the test is the one to give up

leaves: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))


class Broken(BaseException):
    """An error that ``except Exception`` does not catch."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("broken"),
    "os": lambda: FileNotFoundError(2, "broken"),
    "pipe": lambda: BrokenPipeError(32, "broken"),
    "exit": lambda: SystemExit("broken"),
    "greenlet-exit": lambda: gevent.GreenletExit("broken"),
    "timeout": lambda: gevent.Timeout(9),
    "base": lambda: Broken("broken"),
    "stop": lambda: StopIteration("broken"),
}


def note(what: str) -> None:
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"{what}\n")


def content(start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of the data that all bodies are cut from."""
    return (DATA * (stop // len(DATA) + 1))[start:stop]


class Ask:
    """What a query asks for. chunks: sizes of chunks, as in ``5,0,3``; length: of the header."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ
        self.query: dict[str, list[str]] = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        self.chunks = list(self._chunks())

    def __getitem__(self, name: str) -> str:
        return self.query.get(name, [""])[0]

    def _chunks(self) -> Iterator[bytes]:
        start = 0
        for size in filter(None, self["chunks"].split(",")):
            stop = start + int(size)
            yield content(start, stop)
            start = stop

    def fail(self, point: str) -> None:
        """Fail if the query says to fail here."""
        if self["fail"] == point:
            note(f"fails: {point}")
            raise ERRORS[self["error"] or "exception"]()

    @property
    def headers(self) -> list[tuple[str, str]]:
        fields = [field.partition(":") for field in self.query.get("field", ())]
        headers = [(name, value) for name, _, value in fields]
        return headers + [("Content-Length", length) for length in self.query.get("length", ())]


class Chunks:
    """An iterable of its own kind, which can be closed."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.chunks = generate(ask)

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        note("closed")
        self.chunks.close()
        self.ask.fail("close")


def generate(ask: Ask) -> Generator[bytes]:
    try:
        ask.fail("first")
        for number, chunk in enumerate(ask.chunks):
            if number == 1:
                ask.fail("mid")
                restart(ask, "mid")
            yield chunk
        ask.fail("last")
    except BaseException as error:
        note(f"generator: {type(error).__name__}")
        raise
    finally:
        note("generator ends")


def restart(ask: Ask, point: str) -> None:
    """Call start_response again, for an error, if the query says so."""
    if ask["restart"] == point:
        status, headers = "503 Again", [("X-Again", "yes"), ("Content-Type", "text/again")]
        if again := ask["again"]:
            headers.append(("Content-Length", again))
        try:
            raise LookupError("the cause")
        except LookupError:
            ask.environ["start_response"](status, headers, sys.exc_info())


def make(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """A response as the query describes it."""
    ask = Ask(environ)
    environ["start_response"] = start_response
    ask.fail("call")
    hint(ask, "before")
    if "read" in ask.query:
        note(read(environ, ask["read"]))
    if ask["start"] == "never":
        return Chunks(ask)
    status: Any = ask["status"] or "200 OK"
    headers: Any = ask.headers
    if ask["odd"]:
        status, headers = ODD[ask["odd"]]
    write = start_response(status, headers)
    hint(ask, "started")
    ask.fail("started")
    if ask["start"] == "twice":
        start_response(status, headers)
    restart(ask, "started")
    return body(ask, write)


ODD: dict[str, tuple[Any, Any]] = {
    "bytes status": (b"200 OK", []),
    "bytes name": ("200 OK", [(b"X-Name", "value")]),
    "bytes value": ("200 OK", [("X-Name", b"value")]),
    "number": ("200 OK", [("Content-Length", 3)]),
    "status line break": ("200 OK\r\nX-Evil: 1", []),
    "value line break": ("200 OK", [("X-Name", "value\r\nX-Evil: 1")]),
    "value line feed": ("200 OK", [("X-Name", "value\nX-Evil: 1")]),
    "value null": ("200 OK", [("X-Name", "val\0ue")]),
    "value beyond latin-1": ("200 OK", [("X-Name", "val\u20acue")]),
    "value latin-1": ("200 OK", [("X-Name", "val\xe9ue")]),
    "value padded": ("200 OK", [("X-Name", " \tvalue\t ")]),
    "name empty": ("200 OK", [("", "value")]),
    "name with a blank": ("200 OK", [("X Name", "value")]),
    "name with a colon": ("200 OK", [("X:Name", "value")]),
    "no pairs": ("200 OK", ["X-Name"]),
    "no list": ("200 OK", None),
    "tuple": ("200 OK", (("X-Name", "value"),)),
}


def body(ask: Ask, write: Callable[[bytes], object]) -> Any:
    """A body of the kind that the query names."""
    match ask["body"]:
        case "list":
            return ask.chunks
        case "tuple":
            return tuple(ask.chunks)
        case "iterator":
            return iter(ask.chunks)
        case "generator":
            return generate(ask)
        case "write":
            for chunk in ask.chunks:
                write(chunk)
                hint(ask, "written")
            ask.fail("written")
            restart(ask, "written")
            return []
        case "written":
            if ask.chunks:
                write(ask.chunks[0])
            return ask.chunks[1:]
        case "file" | "file at 7" | "plain file" | "written file":
            start = 7 if ask["body"] == "file at 7" else 0
            if ask["body"] == "written file":
                write(ask.chunks[0])
                start = len(ask.chunks[0])
            opened: Any = open(file(ask), "rb")  # noqa: SIM115 – the server closes it
            opened.seek(start)
            return opened if ask["body"] == "plain file" else wrapped(ask, opened)
        case "noted file":
            return wrapped(ask, Noted(open(file(ask), "rb")))
        case "memory":
            return wrapped(ask, BytesIO(b"".join(ask.chunks)))
        case "handled":
            owned = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nowned"
            ask.environ["gunicorn.socket"].sendall(owned)
            return ALREADY_HANDLED
        case "bytes":
            return b"".join(ask.chunks)
        case "text":
            return [chunk.decode() for chunk in ask.chunks]
        case "bytearray":
            return [bytearray(chunk) for chunk in ask.chunks]
        case "mixed":
            return [*ask.chunks, "text"]
        case "none":
            return None
        case "number":
            return 7
    return Chunks(ask)


def file(ask: Ask) -> str:
    """The path of a file that holds the chunks of the query."""
    path = os.path.join(os.environ["FILES"], f"{ask['chunks'] or 'empty'}.bin")
    if not os.path.exists(path):
        with open(path, "wb") as opened:
            opened.write(b"".join(ask.chunks))
    return path


class Noted:
    """A file that records how it is used."""

    def __init__(self, opened: BinaryIO) -> None:
        self.opened = opened
        self.fileno = opened.fileno
        self.seek = opened.seek

    def read(self, size: int) -> bytes:
        note("file read")
        return self.opened.read(size)

    def close(self) -> None:
        note("file closed")
        self.opened.close()


def wrapped(ask: Ask, opened: Any) -> Any:
    wrapper: Any = ask.environ["wsgi.file_wrapper"]
    return wrapper(opened, int(ask["block"])) if ask["block"] else wrapper(opened)


def hint(ask: Ask, point: str) -> None:
    """Send an early hint, if the query says so."""
    if point in ask["hint"].split(","):
        value: Any = "</style.css>; rel=preload"
        if ask["evil"]:
            value += "\r\nX-Evil: 1"
        try:
            ask.environ["wsgi.early_hints"]([("Link", value), (b"X-Bytes", b"yes")])
        except Exception as error:
            note(f"hint: {type(error).__name__}")


def read(environ: WSGIEnvironment, how: str) -> str:
    """What reading the body of the request gives, or the name of its error."""
    source = environ["wsgi.input"]
    try:
        match how:
            case "all":
                data: Any = source.read()
            case "line":
                data = source.readline()
            case "lines":
                data = source.readlines()
            case "items":
                data = list(source)
            case "twice":
                data = (source.read(3), source.read())
            case "careless":
                with suppress(Exception):
                    note(f"read first: {len(source.read())}")
                data = source.read()
            case "":
                data = "not read"
            case size:
                data = source.read(int(size))
    except Exception as error:
        note(f"read fails: {type(error).__name__}")
        raise
    return f"read: {data!r:.400}"


ADDRESSES = ("REMOTE_PORT", "SERVER_PORT")


def kind(value: object) -> str:
    """What a value is, where functions and methods are the same."""
    return "routine" if inspect.isroutine(value) else type(value).__qualname__


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What the application sees of the request, without what differs between connections."""
    seen = {
        key: value if isinstance(value, (str, int, tuple)) else kind(value)
        for key, value in environ.items()
        if key not in ADDRESSES and not key.startswith("vento_wsgi.")
    }
    seen["body"] = read(environ, "all")
    return answer(json.dumps(seen, sort_keys=True, indent=1), start_response)


def keys(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(" ".join(sorted(environ)), start_response)


def last(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What the tests send behind each request, to see whether it is still answered."""
    return answer("last", start_response)


def process(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(str(os.getpid()), start_response)


def steps(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """As many items as the query says, or without end; each waits until it is let."""
    ask = Ask(environ)
    start_response(ask["status"] or "200 OK", ask.headers)

    def items() -> Iterator[bytes]:
        how = "the end"
        try:
            if ask["opening"]:
                yield b""
            for number in range(int(ask["items"] or sys.maxsize)):
                leaves[ask["name"]].acquire(timeout=PATIENCE)
                yield b"item %d\n" % number
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            note(f"{ask['name']}: {how}")

    return items()


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Says when it was called, and answers when the body has come."""
    note("upload begins")
    return answer(str(len(environ["wsgi.input"].read())), start_response)


def let(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    ask = Ask(environ)
    leaves[ask["name"]].release(int(ask["times"] or "1"))
    return answer("let", start_response)


def answer(text: str, start_response: StartResponse) -> list[bytes]:
    data = text.encode()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]


CALLABLES: dict[str, Any] = {
    f"/{made.__name__}": made for made in (make, keys, last, process, steps, upload, let)
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    found: Iterable[bytes] = CALLABLES.get(environ["PATH_INFO"], echo)(environ, start_response)
    return found
