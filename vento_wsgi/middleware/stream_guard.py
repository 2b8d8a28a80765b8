"""StreamGuard: what a Stream promises, for the streams of any WSGI application.

    from vento_wsgi.middleware import StreamGuard
    app.wsgi_app = StreamGuard(app.wsgi_app, deadline=3600)     # Flask
    application = StreamGuard(get_wsgi_application())           # Django

A response without a Content-Length whose body is an iterator becomes a Stream: what is ready
together leaves together, a client that leaves is noticed, each ending is told, an exception
in mid-stream breaks the connection off, and where the content type is text/event-stream there
are a heartbeat, an ``error`` event, a clean end when the worker stops, and the headers that
proxies need. All other responses are left as they are, and so are those sent by ``write()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from .. import body as bodies
from ..broker.feed import Feed
from ..policies import DEFAULT, Policies
from ..response import EVENT_STREAM
from ..sse import encode as encode_event
from ..stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Unpack

    from ..context import PolicyOptions

__all__ = ["StreamGuard"]

_FOR_EVENTS = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))


class StreamGuard:
    """A WSGI application that gives the streams of `wsgi_app` the endings of a Stream.

    policies: heartbeat, deadline, send_timeout, flush, on_end; see Policies. A heartbeat that
        is a number is for event streams alone. Raises ValueError.
    """

    def __init__(self, wsgi_app: WSGIApplication, **policies: Unpack[PolicyOptions]) -> None:
        if not callable(wsgi_app):
            raise TypeError(f"StreamGuard takes a WSGI application, not {wsgi_app!r}")
        self.wsgi_app = wsgi_app
        self._of_events = Policies(**policies) if policies else DEFAULT
        plain = isinstance(self._of_events.heartbeat, tuple)
        self._of_others = self._of_events if plain else replace(self._of_events, heartbeat=None)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start = _Start(start_response)
        body = self.wsgi_app(environ, start)
        try:
            body = start.await_headers(body)
            if not self._is_stream(environ, start, body):
                start.send()
                return body
            headers, event_stream = start.headers, start.content_type == EVENT_STREAM
            if event_stream:
                names = {name.lower() for name, _ in headers}
                headers += [field for field in _FOR_EVENTS if field[0].lower() not in names]
            encode = encode_event if event_stream else bodies.encode
            chunks = bodies.Chunks(_Iterated(body), encode)
            policies = self._of_events if event_stream else self._of_others
            stream = Stream(
                chunks, chunks.close, environ, event_stream=event_stream, policies=policies
            )
        except BaseException:
            _close(body)
            raise
        try:
            stream.begin(environ, start.take(), start.status, headers)
        except BaseException:
            stream.close()
            raise
        return stream

    def _is_stream(self, environ: WSGIEnvironment, start: _Start, body: Any) -> bool:
        if start.sent or environ["REQUEST_METHOD"] == "HEAD":
            return False
        if start.status[:3] in ("204", "304") or start.status.startswith("1"):
            return False
        if any(name.lower() == "content-length" for name, _ in start.headers):
            return False
        wrapper = environ.get("wsgi.file_wrapper")
        return not (
            hasattr(body, "__len__")
            or isinstance(body, (Stream, Feed))
            or (isinstance(wrapper, type) and isinstance(body, wrapper))
            or getattr(body, "streaming", True) is False  # a response of Django's that has it all
        )


class _Start:
    """start_response as the application is given it: kept until it is known what it starts."""

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._exc_info: Any = None
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = False
        self._real: Callable[[bytes], object] = _too_late

    @property
    def content_type(self) -> str:
        """Without its parameters."""
        for name, value in self.headers:
            if name.lower() == "content-type":
                return value.partition(";")[0].strip().lower()
        return ""

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if self.sent:
            return self._start_response(status, headers, exc_info)
        if self.status and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self.status, self.headers, self._exc_info = status, list(headers), exc_info
        return self._write

    def _write(self, data: bytes) -> object:
        self.send()
        return self._real(data)

    def send(self) -> None:
        """Start the response as the application wants it; further calls do nothing."""
        if not self.sent:
            self._real = self.take()(self.status, self.headers)

    def take(self) -> StartResponse:
        """The server's start_response; from here on the application's calls go there."""
        self.sent = True
        if self._exc_info is None:
            return self._start_response
        failure, self._exc_info = self._exc_info, None
        return lambda status, headers, _=None, /: self._start_response(status, headers, failure)

    def await_headers(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The body, begun where the application calls start_response only then."""
        if self.status:
            return body
        items = iter(body)
        begun = list(self._until_started(items))
        return _Iterated(body, chain(begun, items))

    def _until_started(self, items: Iterator[bytes]) -> Iterator[bytes]:
        for item in items:
            yield item
            if self.status:
                return
        if not self.status:
            raise AssertionError("the application has not called start_response (PEP 3333)")


class _Iterated(Iterator[bytes]):
    """A body that is iterated, whatever else it can do, and closed once."""

    def __init__(self, body: Iterable[bytes], items: Iterator[bytes] | None = None) -> None:
        self._body = body
        self._items = iter(body) if items is None else items

    def __iter__(self) -> Iterator[bytes]:
        return self._items

    def __next__(self) -> bytes:
        return next(self._items)

    def close(self) -> None:
        with ExitStack() as closing:
            closing.callback(_close, self._body)
            if self._items is not self._body:
                closing.callback(_close, self._items)


def _too_late(_: bytes) -> object:
    raise AssertionError("write() is for before the body is iterated (PEP 3333)")


def _close(thing: object) -> None:
    close = getattr(thing, "close", None)
    if close is not None:
        close()
