"""The applications of test_stream_guard.py: five frameworks as their manuals have them.

None of them uses vento_wsgi. Each answers the same paths in its own way and records what happened
to a source; /notes returns that. Each application is served bare and guarded, side by side.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, copy_context
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import bottle  # type: ignore[import-untyped, unused-ignore]
import falcon
import flask
from apps import legacy
from django.conf import settings  # type: ignore[import-untyped]
from django.core.signals import request_finished  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.db import connection  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    FileResponse,
    HttpResponse,
    StreamingHttpResponse,
)
from django.urls import re_path  # type: ignore[import-untyped]
from pyramid.config import Configurator  # type: ignore[import-untyped, unused-ignore]
from pyramid.response import Response as PyramidResponse  # type: ignore[import-untyped, unused-ignore]
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from vento_wsgi import Broker, create_app, create_router
from vento_wsgi.contrib import django as in_django
from vento_wsgi.middleware import StreamGuard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from vento_wsgi import Context, Response

TEXT, EVENTS = "text/plain", "text/event-stream"
PATIENCE = 20.0  # seconds; longer than a test waits


class Told:
    """The records of the requests of one name."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.endings: list[str] = []


told: defaultdict[str, Told] = defaultdict(Told)
asked: ContextVar[str] = ContextVar("asked", default="")


def note(what: str) -> None:
    told[asked.get()].notes.append(what)


# What the paths send, for all frameworks.


class Source:
    """An iterable of its own kind, whose closing is counted."""

    def __init__(self, items: Callable[[], Iterator[bytes]]) -> None:
        self.items = items()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.items)

    def close(self) -> None:
        note("closed")
        self.items.close()  # type: ignore[attr-defined]


def ready() -> Iterator[bytes]:
    for number in range(200):
        yield b"chunk %d\n" % number


def waits() -> Iterator[bytes]:
    try:
        yield b"data: first\n\n"
        threading.Event().wait(PATIENCE)
        yield b"data: second\n\n"
    except BaseException as error:
        note(type(error).__name__)
        raise


def fails() -> Iterator[bytes]:
    yield b"data: first\n\n"
    raise RuntimeError("broken")


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(64 * 1024)


def one() -> Iterator[bytes]:
    yield b"data: first\n\n"


STREAMS: dict[str, tuple[dict[str, str], Callable[[], Iterator[bytes]]]] = {
    "ready": ({"Content-Type": TEXT}, ready),
    "waits": ({"Content-Type": TEXT}, waits),
    "fails": ({"Content-Type": TEXT}, fails),
    "endless": ({"Content-Type": TEXT}, endless),
    "events": ({"Content-Type": EVENTS}, waits),
    "failing-events": ({"Content-Type": EVENTS}, fails),
    "event": ({"Content-Type": EVENTS}, one),
    "own-fields": ({"Content-Type": EVENTS, "Cache-Control": "no-store"}, one),
    "encoded": ({"Content-Type": EVENTS, "Content-Encoding": "br"}, one),
    "sized": ({"Content-Type": TEXT, "Content-Length": "1890"}, ready),
}


# The frameworks.

_flask = flask.Flask(__name__)


@_flask.route("/<name>")
def flask_view(name: str) -> Any:
    if name == "hello":
        return "Hello, World!"
    if name == "none":
        return "", 204
    if name == "file":
        return flask.send_file(DATA, mimetype=TEXT, last_modified=0, etag="same")
    if name == "own-request":

        def own() -> Iterator[str]:
            for _ in range(2):
                time.sleep(0.001)
                yield flask.request.args["say"] + "\n"

        return flask.Response(flask.stream_with_context(own()), mimetype=TEXT)
    headers, source = STREAMS[name]
    return flask.Response(Source(source), headers=headers)


_bottle = bottle.Bottle()


@_bottle.route("/<name>")  # type: ignore[untyped-decorator, unused-ignore]
def bottle_view(name: str) -> Any:
    if name == "hello":
        return "Hello, World!"
    if name == "none":
        return bottle.HTTPResponse(status=204)
    if name == "file":
        return bottle.static_file(os.path.basename(DATA), os.path.dirname(DATA), mimetype=TEXT)
    if name == "own-request":

        def own() -> Iterator[str]:
            for _ in range(2):
                time.sleep(0.001)
                yield bottle.request.query["say"] + "\n"

        bottle.response.content_type = TEXT
        return own()
    headers, source = STREAMS[name]
    return bottle.HTTPResponse(Source(source), 200, headers)


class FalconView:
    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        if name == "hello":
            resp.text = "Hello, World!"
        elif name == "none":
            resp.status = falcon.HTTP_204
        elif name == "file":
            opened = open(DATA, "rb")  # noqa: SIM115 – falcon closes it
            resp.set_stream(opened, os.path.getsize(DATA))
        elif name == "own-request":
            resp.stream = (f"{say}\n".encode() for say in [req.params["say"]] * 2)
        else:
            headers, source = STREAMS[name]
            resp.set_headers(headers)
            resp.stream = Source(source)

    on_head = on_get


_falcon = falcon.App()
_falcon.add_route("/{name}", FalconView())


def pyramid_view(request: Any) -> Any:
    name = request.matchdict["name"]
    if name == "hello":
        return PyramidResponse("Hello, World!")
    if name == "none":
        return PyramidResponse(status=204)
    if name == "file":
        from pyramid.response import FileResponse  # type: ignore[import-untyped, unused-ignore]

        return FileResponse(DATA, request, content_type=TEXT)
    if name == "own-request":
        return PyramidResponse(
            app_iter=(f"{say}\n".encode() for say in [request.GET["say"]] * 2), content_type=TEXT
        )
    headers, source = STREAMS[name]
    response = PyramidResponse(app_iter=Source(source))
    response.headerlist = [*headers.items()]
    return response


with Configurator() as config:
    config.add_route("any", "/{name}")
    config.add_view(pyramid_view, route_name="any")
    _pyramid = config.make_wsgi_app()


DATABASE = os.path.join(tempfile.mkdtemp(), "database")


class Placed:
    """Notes whether it is closed in the thread or greenlet in which it was made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made = threading.get_ident()

    def close(self) -> None:
        note(f"closed {'there' if self.made == threading.get_ident() else 'elsewhere'}")


class PlacedList(Placed, list[bytes]):
    pass


class PlacedFile(Placed):
    def __init__(self, *chunks: bytes) -> None:
        super().__init__()
        self.chunks = [*chunks]

    def read(self, _size: int = -1) -> bytes:
        return self.chunks.pop() if self.chunks else b""


class Slots:
    """A sequence whose close() cannot be replaced."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"one"])

    def close(self) -> None:
        note("closed")


def placed(
    environ: WSGIEnvironment, start_response: StartResponse, fields: list[tuple[str, str]]
) -> Iterable[bytes]:
    """A body that the server gets as it is."""
    start_response("200 OK", [*fields, ("Content-Length", "3")])
    match environ["PATH_INFO"]:
        case "/where-list":
            return PlacedList([b"one"])
        case "/where-slots":
            return Slots()
        case _:
            return environ["wsgi.file_wrapper"](PlacedFile(b"one"))  # type: ignore[no-any-return]


DATA = os.path.join(os.path.dirname(DATABASE), "data.txt")
with open(DATA, "wb") as file:
    file.write(legacy.content(0, 300_000))

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of the tests",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
)


broker = Broker("memory://")
view = threading.local()
finished: defaultdict[str, int] = defaultdict(int)
"""How many requests of Django were finished in the thread or greenlet of their view."""


def note_finished(**_options: Any) -> None:
    finished["in its place" if hasattr(view, "called") else "elsewhere"] += 1
    vars(view).clear()


request_finished.connect(note_finished)

ASKING: dict[str, Callable[[Any], Any]] = {
    "text": lambda _: HttpResponse("text"),
    "file": lambda _: FileResponse(open(DATA, "rb")),  # noqa: SIM115 – Django closes it
    "memory": lambda _: FileResponse(BytesIO(b"memory")),
    "stream": lambda _: StreamingHttpResponse(ready()),
    "breaks": lambda _: StreamingHttpResponse(fails()),
    "our-stream": lambda request: in_django.stream(request, ready()),
    "our-breaks": lambda request: in_django.stream(request, fails()),
    "our-list": lambda request: in_django.stream(request, [b"one", b"two"]),
    "our-sse": lambda request: in_django.sse(request, [{"n": 1}]),
    "our-file": lambda request: in_django.file(request, DATA),
    "our-waits": lambda request: in_django.stream(request, waits(), "text/plain"),
    "our-news": lambda request: in_django.sse(request, broker.subscribe("news")),
}


def django_asks(request: Any, name: str) -> Any:
    """A page that has used the database, and then answers by `name`."""
    view.called = True
    select()
    return ASKING[name](request)


def django_view(request: Any, name: str) -> Any:
    if name == "hello":
        return HttpResponse("Hello, World!")
    if name == "none":
        return HttpResponse(status=204)
    if name == "file":
        return FileResponse(open(DATA, "rb"), content_type=TEXT)
    if name == "own-request":
        own = (f"{say}\n" for say in [request.GET["say"]] * 2)
        return StreamingHttpResponse(own, content_type=TEXT)
    if name == "asks":
        return HttpResponse(select())
    if name == "asks-waits":
        select()

        def asks() -> Iterator[bytes]:
            yield select()
            yield from waits()

        return StreamingHttpResponse(asks(), content_type=TEXT)
    headers, source = STREAMS[name]
    return StreamingHttpResponse(Source(source), headers=headers)


def select() -> bytes:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'of the database'")
        return cursor.fetchone()[0].encode()  # type: ignore[no-any-return]


urlpatterns = [
    re_path("^(?P<name>[a-z-]+)$", django_view),
    re_path("^asking/(?P<name>[a-z-]+)$", django_asks),
]


# A stream of vento_wsgi, below a guard that it does not need.

router = create_router()


@router.get("/<name>")
def ours(ctx: Context) -> Response:
    headers, source = STREAMS[ctx.params["name"]]
    on_end = of_this_request(ended)
    return ctx.stream(source(), headers["Content-Type"], send_timeout=0.3, on_end=on_end)


_vento = create_app()
_vento.use(router)


# The records, and the census.


def ended(ending: Any) -> None:
    told[asked.get()].endings.append(ending.reason)


def of_this_request(function: Callable[[Any], object]) -> Callable[[Any], object]:
    context = copy_context()
    return lambda value: context.run(function, value)


def tell(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    names = [target_of(fd) for fd in os.listdir("/proc/self/fd")]
    about = vars(told[environ["QUERY_STRING"]])
    database = sum(DATABASE in name for name in names)
    return legacy.answer(
        json.dumps({**about, "connections": database, "finished": finished}), start_response
    )


def target_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What a WSGI application may do, and frameworks do not."""
    query = parse_qs(environ["QUERY_STRING"])
    fields = [("Content-Type", TEXT)]
    match environ["PATH_INFO"]:
        case "/write":
            write = start_response("200 OK", fields)
            write(b"written, ")
            return [b"returned"]
        case "/write-sized":
            write = start_response("200 OK", [*fields, ("Content-Length", "17")])
            write(b"written, ")
            return [b"returned"]
        case "/late":
            return late(start_response, fields)
        case "/late-sized":
            return late(start_response, [*fields, ("Content-Length", "9")])
        case "/thinks":  # as with a query of a database
            time.sleep(0.001)
            start_response("200 OK", fields)
            return Source(waits)
        case "/restarted":
            start_response("200 OK", fields)
            try:
                raise LookupError("the cause")
            except LookupError:
                import sys

                start_response("503 Again", [*fields, ("X-Again", "yes")], sys.exc_info())
            return [b"again"]
        case "/tuple":
            start_response("200 OK", fields)
            return (b"one", b"", b"two")
        case "/file":
            start_response("200 OK", fields)
            return environ["wsgi.file_wrapper"](open(DATA, "rb"))  # type: ignore[no-any-return]
        case "/memory":
            start_response("200 OK", fields)
            return environ["wsgi.file_wrapper"](BytesIO(b"memory"))  # type: ignore[no-any-return]
        case "/read":
            start_response("200 OK", [*fields, ("Content-Length", "4")])
            return iter([environ["wsgi.input"].read()])
        case "/fails":
            raise RuntimeError("broken")
        case "/never":
            return [b"no head"]
        case "/where-list" | "/where-slots" | "/where-file":
            return placed(environ, start_response, fields)
        case "/where":  # the same greenlet or thread for all of it
            return Where(start_response, [*fields, *(("Content-Length", n) for n in query["size"])])
    start_response("404 Not Found", fields)
    return []


def late(start_response: StartResponse, fields: list[tuple[str, str]]) -> Iterator[bytes]:
    start_response("200 OK", fields)
    yield b"late, "
    yield b"but"


class Where:
    """Notes at its end whether the same thread called, iterated and closed it."""

    def __init__(self, start_response: StartResponse, fields: list[tuple[str, str]]) -> None:
        if fields[1:] == [("Content-Length", "none")]:
            fields.pop()
        start_response("200 OK", fields)
        self.seen = [threading.get_ident()]

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            self.seen.append(threading.get_ident())
            yield b"here."
            time.sleep(0.001)

    def close(self) -> None:
        self.seen.append(threading.get_ident())
        note(f"{len(self.seen)} in {len(set(self.seen))}")


FRAMEWORKS: dict[str, Any] = {
    "flask": _flask,
    "django": get_wsgi_application(),
    "bottle": _bottle,
    "falcon": _falcon,
    "pyramid": _pyramid,
    "plain": plain,
    "vento": _vento,
    "legacy": legacy.make,
}


def guarded(made: WSGIApplication, **options: Any) -> WSGIApplication:
    """What the guard reports of an ending, by the name of the request."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        on_end = of_this_request(ended)
        guard = StreamGuard(made, on_end=on_end, **options)
        return guard(environ, start_response)

    return app


mounts: dict[str, WSGIApplication] = {"/tell": tell}
for name, made in FRAMEWORKS.items():
    mounts[f"/bare/{name}"] = made
    mounts[f"/guarded/{name}"] = guarded(made)
    mounts[f"/nested/{name}"] = StreamGuard(guarded(made))
    mounts[f"/strict/{name}"] = guarded(made, heartbeat=0.2, send_timeout=0.3)
    mounts[f"/brief/{name}"] = guarded(made, deadline=0.2)

dispatch = DispatcherMiddleware(tell, mounts)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    asked.set(environ.get("HTTP_X_NAME", ""))
    return dispatch(environ, start_response)
