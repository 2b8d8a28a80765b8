"""StreamGuard: the lifecycle of a Stream for the streams of any WSGI application.

    from vento_wsgi.middleware import StreamGuard
    app.wsgi_app = StreamGuard(app.wsgi_app, deadline=3600)     # Flask
    application = StreamGuard(get_wsgi_application())           # Django

A response without a Content-Length whose body is an iterator becomes a Stream. Chunks that are
ready together are sent together, a client that leaves is noticed, each ending is reported, and an
exception in mid-stream breaks the connection off. With the content type text/event-stream there
are also a heartbeat, an ``error`` event, a clean end when the worker stops, and the headers that
proxies need. All other responses stay as they are, and so do responses sent by ``write()``.

Under gevent the application runs in its own greenlet, since the server's greenlet waits and
writes. Frameworks keep state per thread (Bottle's request, Django's database connections), which
is per greenlet under gevent. So one greenlet calls the application, iterates its body and closes
it, even if the server gets the very object that the application returned. There are two
exceptions. A parked subscription ends where the worker ends it, as without the guard. An object
whose close() cannot be replaced is closed by the server's greenlet.

Without gevent the application stays in its thread. There a departure or a deadline is noticed at
the next chunk, and there is no heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from ..bodies import sources as bodies
from ..broker.body import SubscriptionBody
from ..logs import logger
from ..response import EVENT_STREAM
from ..streaming.environ import fields
from ..streaming.options import DEFAULT, StreamOptions
from ..streaming.pumps import cooperative
from ..streaming.stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from typing_extensions import ParamSpec, Unpack

    from ..context import StreamOptionsDict
    from ..streaming.greenlet_pump import GreenletPump

    P = ParamSpec("P")

T = TypeVar("T")

__all__ = ["StreamGuard"]

log = logger(__name__)

_FOR_EVENTS = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))


class StreamGuard:
    """A WSGI application that makes Streams of the streams of `wsgi_app`.

    options: heartbeat, deadline, send_timeout, flush, drain, on_end; see StreamOptions. A heartbeat
        that is a number applies to event streams only. Raises ValueError.
    """

    def __init__(self, wsgi_app: WSGIApplication, **options: Unpack[StreamOptionsDict]) -> None:
        if not callable(wsgi_app):
            raise TypeError(f"StreamGuard takes a WSGI application, not {wsgi_app!r}")
        self.wsgi_app = wsgi_app
        self._of_events = StreamOptions(**options) if options else DEFAULT
        self._of_encoded = replace(self._of_events, heartbeat=None)
        plain = isinstance(self._of_events.heartbeat, tuple)
        self._of_others = self._of_events if plain else self._of_encoded

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        call = _Call(self.wsgi_app, environ, start_response)
        if not cooperative():
            next(call)
            return self._stream(call) if call.is_stream else call.answer()
        from ..streaming.greenlet_pump import GreenletPump

        context = copy_context()
        pump = GreenletPump(call, context)
        try:
            pump.take()
            if not call.is_stream:
                call.start.send()
        except BaseException:
            pump.stop(call.close)
            _adopt(context)
            raise
        if call.is_stream:
            return self._stream(call, pump)
        return call.lend(pump, context) if call.as_it_is else _Aside(call, pump, context)

    def _stream(self, call: _Call, pump: GreenletPump | None = None) -> Stream:
        headers, options = call.start.headers, self._of_others
        encoded = call.start.field("content-encoding") not in ("", "identity")
        events = call.start.field("content-type").partition(";")[0].strip() == EVENT_STREAM
        if events:
            headers += [field for field in _FOR_EVENTS if not call.start.field(field[0].lower())]
            options = self._of_events
        if encoded:  # nothing can be inserted between the bytes of a coding
            options = self._of_encoded
        stream = Stream(
            call,
            call.close,
            call.environ,
            event_stream=events and not encoded,
            waits=pump is not None,
            options=options,
            pump=pump,
        )
        try:
            stream.begin(call.start.take(), call.start.status, headers)
        except BaseException:
            stream.close()
            raise
        return stream


class _Call(Iterator[bytes]):
    """One call of the application: an empty chunk when its head is known, then its chunks.

    It is an iterator and not a generator, because an exception of the application must come out
    unchanged: websockets under gunicorn end with StopIteration, which a generator would replace
    by a RuntimeError.

    is_stream: whether the body becomes a Stream. as_it_is: whether the server gets the very
    object that the application returned.
    """

    is_stream = as_it_is = False
    body: Any = None

    def __init__(
        self, wsgi_app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.wsgi_app = wsgi_app
        self.environ = environ
        self.start = _Start(start_response)
        self._called = self._closed = False
        self._close: Callable[[], object] = _nothing
        self._begun: Iterator[bytes] | None = None  # the items of a body that was begun
        self._chunks: Iterator[bytes] | None = None

    def __next__(self) -> bytes:
        if not self._called:
            self._called = True
            self._make()
            return b""
        try:
            if self._chunks is None:
                items = iter(self.body) if self._begun is None else self._begun
                self._chunks = filter(None, map(bodies.encode, items)) if self.is_stream else items
            return next(self._chunks)
        except BaseException:
            self._close_here()
            raise

    def _make(self) -> None:
        """Call the application, and wait until it has called start_response."""
        body = self.body = self.wsgi_app(self.environ, self.start)
        self._close = getattr(body, "close", _nothing)
        try:
            self.as_it_is = self._is_the_servers()
            if not self.as_it_is and not self.start.status:
                self._begin()
            self.is_stream = not self.as_it_is and self._is_stream()
        except BaseException:
            self.close()
            raise

    def _is_the_servers(self) -> bool:
        """Whether the server must get this very object, which it knows by its class or length."""
        body, wrapper = self.body, self.environ.get("wsgi.file_wrapper")
        if (
            hasattr(body, "__len__")
            or not hasattr(body, "__iter__")
            or isinstance(body, (Stream, SubscriptionBody))
            or (isinstance(wrapper, type) and isinstance(body, wrapper))
        ):
            return True
        stands_for = getattr(body, "vento_body", None)
        if stands_for is None:
            return False
        # A framework's response with a vento_wsgi body. The body starts here, in the greenlet of
        # the view. A subscription needs no greenlet after this.
        ours = stands_for()
        if isinstance(ours, SubscriptionBody):
            self.body = ours
        return ours is not None

    def _begin(self) -> None:
        """Take items until the application calls start_response; a generator does that late."""
        items, taken = iter(self.body), []
        for item in items:
            taken.append(item)
            if self.start.status:
                break
        self._begun = chain(taken, items)

    def _is_stream(self) -> bool:
        status, field = self.start.status, self.start.field
        return not (
            not status
            or self.start.sent
            or self.environ["REQUEST_METHOD"] == "HEAD"
            or status.startswith(("1", "204", "304"))
            or field("content-length")
            or field("transfer-encoding")
            or getattr(self.body, "streaming", True) is False  # a Django response that is complete
        )

    def answer(self) -> Any:
        """Start the response as the application asked. Returns its body."""
        try:
            self.start.send()
        except BaseException:
            self.close()
            raise
        return self.body if self._begun is None else self

    def lend(self, pump: GreenletPump, context: Context) -> Any:
        """The body itself, for the server; its close() will run in the application's greenlet.

        The server knows a file wrapper or a stream by its class, so the object cannot be wrapped.
        Instead its close() is replaced. A body without close() frees the greenlet at once.
        """

        def close() -> None:
            if not self._closed:
                _adopting(context, pump.stop, self.close)

        body = self.body
        if self._close is not _nothing and not isinstance(body, SubscriptionBody):
            try:
                body.close = close
            except AttributeError:  # an object with __slots__: the server closes it
                pass
            else:
                return body
        self._closed = True
        pump.stop(_nothing)
        return body

    def _close_here(self) -> None:
        """Close the body at its end, in the greenlet or thread that iterated it."""
        try:
            self.close()
        except Exception:
            if not self.is_stream:
                raise
            known = fields(self.environ)
            log.exception("%s: closing its body failed", known["route"], extra=known)

    def close(self) -> None:
        """Close the application's body; further calls do nothing."""
        if not self._closed:
            self._closed = True
            close, self._close, self.body = self._close, _nothing, None
            close()


class _Start:
    """The application's start_response. It calls the server's only when the body is known."""

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
        """Call the server's start_response as the application asked; further calls do nothing.

        Does nothing for an application that never called start_response, such as a websocket.
        """
        if not self.sent:
            start_response = self.take()
            if self.status:
                self._real = start_response(self.status, self.headers)

    def take(self) -> StartResponse:
        """The server's start_response. Later calls of the application go directly to it."""
        self.sent = True
        if self._exc_info is None:
            return self._start_response
        failure, self._exc_info = self._exc_info, None
        return lambda status, headers, _=None, /: self._start_response(status, headers, failure)


class _Aside(Iterator[bytes]):
    """A body that is not a stream, iterated and closed in the greenlet of its application."""

    def __init__(self, call: _Call, pump: GreenletPump, context: Context) -> None:
        self._call = call
        self._pump = pump
        self._context = context

    def __next__(self) -> bytes:
        return _adopting(self._context, self._pump.take)

    def close(self) -> None:
        _adopting(self._context, self._pump.stop, self._call.close)


def _adopting(context: Context, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`; if it raises, copy the variables of `context`; see _adopt()."""
    try:
        return function(*args, **kwargs)
    except StopIteration:
        raise
    except BaseException:
        _adopt(context)
        raise


def _adopt(context: Context) -> None:
    """Set the variables of the current context as they are in `context`.

    The error of a call is handled outside of it, and error trackers remember in a variable which
    errors they have already reported.
    """
    for variable, value in context.items():
        if variable.get(context) is not value:
            variable.set(value)


def _nothing() -> None:
    return


def _too_late(_: bytes) -> object:
    raise AssertionError("write() is for before the body is iterated (PEP 3333)")
