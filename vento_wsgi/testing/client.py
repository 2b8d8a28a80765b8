"""Client: werkzeug's, and responses that are read as they come."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.test import Client as WerkzeugClient

from ..sse import Event, decode
from ..streaming.record import Ending
from .exchange import Exchange

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Client", "StreamResponse"]

TIMEOUT = 5.0
"""Seconds for each wait: a busy machine needs less, and who waits for a failure not much more."""

_BLOCKS = re.compile(rb".*(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)", re.DOTALL)
"""All to the last empty line."""

_EXCHANGE = "vento_wsgi.testing.exchange"


class Client(WerkzeugClient):
    """werkzeug's Client, for any WSGI application, with ``stream()`` beside ``get()``."""

    def __init__(self, application: WSGIApplication, *args: Any, **options: Any) -> None:
        super().__init__(_Switch(application), *args, **options)

    def stream(
        self, method: str, path: str, *, timeout: float = TIMEOUT, **options: Any
    ) -> StreamResponse:
        """Send a request and return its response when its head is there. Use it in a ``with``.

        The application runs in a thread of its own, a greenlet where gevent is patched in, and
        goes on as far as it is read, a chunk at a time. timeout: seconds for each wait: for
        the head, for a chunk, for the application to end when the client has left.
        options: those of werkzeug's EnvironBuilder: headers, json, data, query_string…

        Raises TimeoutError, what the application raises before its head, and AssertionError
        where it breaks a rule of PEP 3333.
        """
        if "follow_redirects" in options:
            raise TypeError("stream() gives one response: follow its Location with another")
        exchange = Exchange(f"{method} {path}", timeout)
        overrides = {**options.pop("environ_overrides", {}), _EXCHANGE: exchange}
        try:
            opened = self.open(path, method=method, environ_overrides=overrides, **options)
        except BaseException:
            exchange.abandon()
            raise
        return StreamResponse(exchange, opened.close)


class _Switch:
    """Leads the requests of streams to where they can be read as they come."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("REMOTE_ADDR", "127.0.0.1")  # as every server on TCP sets it
        exchange: Exchange | None = environ.pop(_EXCHANGE, None)
        if exchange is None:
            return self._application(environ, start_response)
        start_response(*exchange.begin(self._application, environ))
        return ()


class StreamResponse:
    """A response that is read as it comes.

    Its iterators are one each: what one call has taken, the next does not give again.
    """

    def __init__(self, exchange: Exchange, close: Callable[[], object]) -> None:
        self._exchange = exchange
        self._close = close  # of what the request's body is read from
        self._chunks = iter(exchange.take, None)
        self._rest = b""  # of a block of events
        self._events = decode(self._received())

    @property
    def status_code(self) -> int:
        return int(self._exchange.status[:3])

    @property
    def headers(self) -> Headers:
        return Headers(self._exchange.headers)

    def chunks(self) -> Iterator[bytes]:
        """The chunks as they come, none of them empty, to the end of the response.

        Raises TimeoutError when nothing comes in time, after which it can go on; and what the
        application raises in mid-stream, which is StreamAborted where the response broke off.
        """
        return self._chunks

    def events(self, *, comments: bool = False) -> Iterator[Event]:
        """The events of an event stream as they come.

        comments: also what is no event, each as soon as it is there: comments, as heartbeats
        are, and ``retry``. Raises what chunks() does.
        """
        while True:
            try:
                event = next(self._events, None)
            except TimeoutError:
                self._events = decode(self._received())
                raise
            if event is None:
                return
            if comments or not event.is_aside:
                yield event

    def _received(self) -> Iterator[bytes]:
        if self._rest:
            yield self._rest
        for chunk in self._chunks:
            self._rest = _BLOCKS.sub(b"", self._rest + chunk)
            yield chunk

    @property
    def ending(self) -> Ending | None:
        """How the stream ended: reason, bytes, chunks, seconds; None while it has not.

        None, too, of what is no stream of vento_wsgi. To be sure of it, leave the ``with``.
        """
        return self._exchange.ending

    def close(self) -> None:
        """Leave, as a client does that closes its connection, and wait until that is noticed.

        Raises TimeoutError if it is not in time, and what the application raises meanwhile.
        """
        try:
            self._exchange.leave()
        finally:
            self._close()

    def __enter__(self) -> StreamResponse:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # which says more than what follows from it
            self._exchange.abandon()
            self._close()
