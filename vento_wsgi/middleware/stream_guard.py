"""StreamGuard: what a Stream promises, for the streams of any WSGI application.

    from vento_wsgi.middleware import StreamGuard
    app.wsgi_app = StreamGuard(app.wsgi_app, deadline=3600)     # Flask
    application = StreamGuard(get_wsgi_application())           # Django

A response without a Content-Length whose body is an iterator becomes a Stream: what is ready
together leaves together, a client that leaves is noticed, each ending is told, an exception
in mid-stream breaks the connection off, and where the content type is text/event-stream there
are a heartbeat, an ``error`` event, a clean end when the worker stops, and the headers that
proxies need. All other responses are left as they are, and so are those sent by ``write()``.

Under gevent the application runs in a greenlet of its own, from its call to the ``close()`` of
its body, since the server's greenlet waits and writes. What frameworks keep by thread (Bottle's
request, Django's database connections) is kept by greenlet there, so one and the same must call
the application, iterate its body and close it. So without gevent it stays in its thread: the next
chunk tells that a client has left or a deadline has passed, and there is no heartbeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from .. import body as bodies
from ..broker.feed import Feed
from ..keys import route
from ..policies import DEFAULT, Policies
from ..pump import cooperative
from ..response import EVENT_STREAM
from ..stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import Unpack

    from ..context import PolicyOptions
    from ..greenlets import Greenlets

__all__ = ["StreamGuard"]

log = logging.getLogger(__name__)

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
        self._of_encoded = replace(self._of_events, heartbeat=None)
        plain = isinstance(self._of_events.heartbeat, tuple)
        self._of_others = self._of_events if plain else self._of_encoded

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        call = _Call(self.wsgi_app, environ, start_response)
        if not cooperative():
            call.make()
            return self._stream(call) if call.is_stream else call.answer()
        from ..greenlets import Greenlets

        run = call.run()
        pump = Greenlets(run)
        try:
            pump.take()
        except BaseException:
            pump.stop(run.close)
            raise
        if call.is_stream:
            return self._stream(call, run, pump)
        try:
            body = call.answer()
        except BaseException:
            pump.stop(run.close)
            raise
        return body if call.as_it_is else _Aside(run, pump)

    def _stream(
        self,
        call: _Call,
        run: Generator[bytes, None, None] | None = None,
        pump: Greenlets | None = None,
    ) -> Stream:
        headers, policies = call.start.headers, self._of_others
        encoded = call.start.field("content-encoding") not in ("", "identity")
        events = call.start.field("content-type").partition(";")[0].strip() == EVENT_STREAM
        if events:
            headers += [field for field in _FOR_EVENTS if not call.start.field(field[0].lower())]
            policies = self._of_events
        if encoded:  # there nothing of ours can be said in between
            policies = self._of_encoded
        stream = Stream(
            run or call.chunks(),
            run.close if run is not None else call.close,
            call.environ,
            event_stream=events and not encoded,
            waits=pump is not None,
            policies=policies,
            pump=pump,
        )
        try:
            stream.begin(call.environ, call.start.take(), call.start.status, headers)
        except BaseException:
            stream.close()
            raise
        return stream


class _Call:
    """One call of the application, and the body that came of it.

    is_stream: whether it is to be a Stream. as_it_is: whether the server has the very object.
    """

    is_stream = as_it_is = False
    body: Any = None

    def __init__(
        self, wsgi_app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.wsgi_app = wsgi_app
        self.environ = environ
        self.start = _Start(start_response)
        self._closed = False

    def make(self) -> None:
        """Call the application, and wait until it has called start_response."""
        self.body = self.wsgi_app(self.environ, self.start)
        try:
            if not self.start.status and hasattr(self.body, "__iter__"):
                self.body = self.start.await_headers(self.body)
        except BaseException:
            self.close()
            raise
        wrapper = self.environ.get("wsgi.file_wrapper")
        self.as_it_is = (
            hasattr(self.body, "__len__")
            or not hasattr(self.body, "__iter__")
            or isinstance(self.body, (Stream, Feed))
            or hasattr(self.body, "vento_feed")
            or (isinstance(wrapper, type) and isinstance(self.body, wrapper))
        )
        self.is_stream = not self.as_it_is and self._is_stream()

    def _is_stream(self) -> bool:
        status, field = self.start.status, self.start.field
        return not (
            self.start.sent
            or self.environ["REQUEST_METHOD"] == "HEAD"
            or status.startswith(("1", "204", "304"))
            or field("content-length")
            or field("transfer-encoding")
            or getattr(self.body, "streaming", True) is False  # Django's, that has it all
        )

    def answer(self) -> Any:
        """Start the response as the application wants it; its body."""
        try:
            if self.start.status:
                self.start.send()
        except BaseException:
            self.close()
            raise
        return self.body

    def run(self) -> Generator[bytes, None, None]:
        """All of it in one place: an empty chunk when the head is known, then the body's."""
        self.make()
        if self.as_it_is:
            yield b""
            return
        try:
            yield b""
            items: Iterable[bytes] = self.chunks() if self.is_stream else self.body
            for item in items:  # noqa: UP028 – yield from would close the body once more
                yield item
        finally:
            try:
                self.close()
            except Exception:
                if not self.is_stream:
                    raise
                log.exception("%s: closing its body failed", route(self.environ))

    def chunks(self) -> Iterator[bytes]:
        """What a Stream is made of."""
        return filter(None, map(bodies.encode, self.body))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _close(self.body)


class _Start:
    """start_response as the application is given it: kept until it is known what it starts."""

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._exc_info: Any = None
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = False
        self._real: Callable[[bytes], object] = _too_late

    def field(self, asked: str) -> str:
        """A header's value in lower case; "" for none."""
        return next((value.lower() for name, value in self.headers if name.lower() == asked), "")

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
        items = iter(body)
        begun = list(self._until_started(items))
        return _Begun(body, chain(begun, items))

    def _until_started(self, items: Iterator[bytes]) -> Iterator[bytes]:
        for item in items:
            yield item
            if self.status:
                return
        if not self.status:
            raise AssertionError("the application has not called start_response (PEP 3333)")


class _Begun(Iterator[bytes]):
    """A body of which the first items have been taken already."""

    def __init__(self, body: Iterable[bytes], items: Iterator[bytes]) -> None:
        self._items = items
        self._body = body

    def __next__(self) -> bytes:
        return next(self._items)

    def close(self) -> None:
        _close(self._body)


class _Aside(Iterator[bytes]):
    """A body that is no stream, whose application has a greenlet of its own."""

    def __init__(self, run: Generator[bytes, None, None], pump: Greenlets) -> None:
        self._run = run
        self._pump = pump

    def __next__(self) -> bytes:
        return self._pump.take()

    def close(self) -> None:
        self._pump.stop(self._run.close)


def _close(thing: object) -> None:
    close = getattr(thing, "close", None)
    if close is not None:
        close()


def _too_late(_: bytes) -> object:
    raise AssertionError("write() is for before the body is iterated (PEP 3333)")
