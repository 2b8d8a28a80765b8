"""StreamGuard: what a Stream promises, for the streams of any WSGI application.

    from vento_wsgi.middleware import StreamGuard
    app.wsgi_app = StreamGuard(app.wsgi_app, deadline=3600)     # Flask
    application = StreamGuard(get_wsgi_application())           # Django

A response without a Content-Length whose body is an iterator becomes a Stream: what is ready
together leaves together, a client that leaves is noticed, each ending is told, an exception
in mid-stream breaks the connection off, and where the content type is text/event-stream there
are a heartbeat, an ``error`` event, a clean end when the worker stops, and the headers that
proxies need. All other responses are left as they are, and so are those sent by ``write()``.

Under gevent the application runs in a greenlet of its own, since the server's greenlet waits and
writes. Frameworks keep things by thread (Bottle's request, Django's database connections), which
gevent makes things by greenlet. So one greenlet calls the application, iterates its body and
closes it, also where the server gets the very object that the application has returned. There are
two exceptions: a subscription that is parked ends where the worker ends it, as without the guard,
and an object whose close() cannot be replaced is closed by the server's greenlet.

Without gevent the application stays in its thread: a departure or a deadline is noticed at the
next chunk, and there is no heartbeat.
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
    """A WSGI application that gives the streams of `wsgi_app` the endings of a Stream.

    policies: heartbeat, deadline, send_timeout, flush, on_end; see StreamOptions. A heartbeat that
        is a number is for event streams alone. Raises ValueError.
    """

    def __init__(self, wsgi_app: WSGIApplication, **policies: Unpack[StreamOptionsDict]) -> None:
        if not callable(wsgi_app):
            raise TypeError(f"StreamGuard takes a WSGI application, not {wsgi_app!r}")
        self.wsgi_app = wsgi_app
        self._of_events = StreamOptions(**policies) if policies else DEFAULT
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
        headers, policies = call.start.headers, self._of_others
        encoded = call.start.field("content-encoding") not in ("", "identity")
        events = call.start.field("content-type").partition(";")[0].strip() == EVENT_STREAM
        if events:
            headers += [field for field in _FOR_EVENTS if not call.start.field(field[0].lower())]
            policies = self._of_events
        if encoded:  # nothing of ours can be sent between the bytes of a coding
            policies = self._of_encoded
        stream = Stream(
            call,
            call.close,
            call.environ,
            event_stream=events and not encoded,
            waits=pump is not None,
            options=policies,
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

    It is an iterator, not a generator, so that whatever the application raises comes out as it
    is: gunicorn's websockets end with StopIteration, which a generator would turn into an error.

    is_stream: whether the body becomes a Stream. as_it_is: whether the server gets the very
    object that the application has returned.
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
        self._begun: Iterator[bytes] | None = None  # what remains of a body that was begun
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
        """Whether the server must get the very object: it knows it by its class or its length."""
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
        # A framework's response with a body of ours. The body begins here, in the greenlet of
        # the view. A subscription needs no greenlet from here on.
        ours = stands_for()
        if isinstance(ours, SubscriptionBody):
            self.body = ours
        return ours is not None

    def _begin(self) -> None:
        """Take items until the application calls start_response, which a generator does late."""
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
            or getattr(self.body, "streaming", True) is False  # Django's, that has it all
        )

    def answer(self) -> Any:
        """Start the response as the application wants it; its body."""
        try:
            self.start.send()
        except BaseException:
            self.close()
            raise
        return self.body if self._begun is None else self

    def lend(self, pump: GreenletPump, context: Context) -> Any:
        """The very body for the server, whose close() will run where the application was called.

        The server knows a file wrapper or a stream by its class, so the object cannot be
        wrapped: its close() is replaced. A body that has none frees the greenlet at once.
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
        """Close the body at its end, in the greenlet or thread that has iterated it."""
        try:
            self.close()
        except Exception:
            if not self.is_stream:
                raise
            known = fields(self.environ)
            log.exception("%s: closing its body failed", known["route"], extra=known)

    def close(self) -> None:
        """Close the body that the application has returned; further calls do nothing."""
        if not self._closed:
            self._closed = True
            close, self._close, self.body = self._close, _nothing, None
            close()


class _Start:
    """The start_response of the application: it waits until it is known what the body is."""

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
        """Start the response as the application wants it; further calls do nothing.

        An application that has not called start_response, as websockets do not, starts nothing.
        """
        if not self.sent:
            start_response = self.take()
            if self.status:
                self._real = start_response(self.status, self.headers)

    def take(self) -> StartResponse:
        """The server's start_response; from here on the application's calls go there."""
        self.sent = True
        if self._exc_info is None:
            return self._start_response
        failure, self._exc_info = self._exc_info, None
        return lambda status, headers, _=None, /: self._start_response(status, headers, failure)


class _Aside(Iterator[bytes]):
    """A body that is not a stream, made and closed in the greenlet of its application."""

    def __init__(self, call: _Call, pump: GreenletPump, context: Context) -> None:
        self._call = call
        self._pump = pump
        self._context = context

    def __next__(self) -> bytes:
        return _adopting(self._context, self._pump.take)

    def close(self) -> None:
        _adopting(self._context, self._pump.stop, self._call.close)


def _adopting(context: Context, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; if it raises an error of what runs in `context`, see _adopt()."""
    try:
        return function(*args, **kwargs)
    except StopIteration:
        raise
    except BaseException:
        _adopt(context)
        raise


def _adopt(context: Context) -> None:
    """Set the variables here as they are in `context`.

    The error of a call is handled outside. Error trackers keep in a variable what they have
    reported already.
    """
    for variable, value in context.items():
        if variable.get(context) is not value:
            variable.set(value)


def _nothing() -> None:
    return


def _too_late(_: bytes) -> object:
    raise AssertionError("write() is for before the body is iterated (PEP 3333)")
