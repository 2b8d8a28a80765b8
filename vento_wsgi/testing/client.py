"""Client: werkzeug's test client, with responses that are read while the application runs."""

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
"""Seconds for each wait: enough on a busy machine, and short enough when a test fails."""

_BLOCKS = re.compile(rb".*(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)", re.DOTALL)
"""Everything up to the last empty line."""

_EXCHANGE = "vento_wsgi.testing.exchange"


class Client(WerkzeugClient):
    """werkzeug's Client for any WSGI application, with an additional method ``stream()``."""

    def __init__(self, application: WSGIApplication, *args: Any, **options: Any) -> None:
        super().__init__(_Switch(application), *args, **options)

    def stream(
        self, method: str, path: str, *, timeout: float = TIMEOUT, **options: Any
    ) -> StreamResponse:
        """Send a request and return its response once the head is there. Use it in a ``with``.

        The application runs in a thread of its own, or in a greenlet if gevent has patched
        `threading`, and continues only while a chunk is being read.

        timeout: seconds for each wait: for the head, for a chunk, and for the application to end
            after the client left.
        options: those of werkzeug's EnvironBuilder: headers, json, data, query_string…

        Raises TimeoutError, anything that the application raises before its head, and
        AssertionError if the application breaks a rule of PEP 3333.
        """
        if "follow_redirects" in options:
            raise TypeError("stream() does not follow redirects: request the Location yourself")
        exchange = Exchange(f"{method} {path}", timeout)
        overrides = {**options.pop("environ_overrides", {}), _EXCHANGE: exchange}
        try:
            opened = self.open(path, method=method, environ_overrides=overrides, **options)
        except BaseException:
            exchange.abandon()
            raise
        return StreamResponse(exchange, opened.close)


class _Switch:
    """Runs the requests of stream() in their Exchange, and all others directly."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("REMOTE_ADDR", "127.0.0.1")  # every server on TCP sets it
        exchange: Exchange | None = environ.pop(_EXCHANGE, None)
        if exchange is None:
            return self._application(environ, start_response)
        start_response(*exchange.begin(self._application, environ))
        return ()


class StreamResponse:
    """A response that is read while the application runs.

    chunks() and events() return the same iterator at each call: items are given once.
    """

    def __init__(self, exchange: Exchange, close: Callable[[], object]) -> None:
        self._exchange = exchange
        self._close = close  # closes the body of the request
        self._chunks = iter(exchange.take, None)
        self._rest = b""  # the beginning of an unfinished block of events
        self._events = decode(self._received())

    @property
    def status_code(self) -> int:
        return int(self._exchange.status[:3])

    @property
    def headers(self) -> Headers:
        return Headers(self._exchange.headers)

    def chunks(self) -> Iterator[bytes]:
        """The chunks of the response, as soon as each exists; none is empty.

        Raises TimeoutError if no chunk comes in time (you may then continue to read), and anything
        that the application raises, which is StreamAborted if the response broke off.
        """
        return self._chunks

    def events(self, *, comments: bool = False) -> Iterator[Event]:
        """The events of an event stream, as soon as each exists.

        comments: whether comments (such as heartbeats) and ``retry`` are included. Raises the same
        as chunks().
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
        """How the stream ended: reason, bytes, chunks, seconds.

        None while it is open, and always None if it is no stream of vento_wsgi. After the ``with``
        block the stream has ended.
        """
        return self._exchange.ending

    def close(self) -> None:
        """Close the connection like a client, and wait until the application has ended.

        Raises TimeoutError, and anything that the application raises.
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
        else:  # the error of the test says more than one that follows from it
            self._exchange.abandon()
            self._close()
