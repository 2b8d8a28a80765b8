"""A subscription as the body of a response.

On most servers it is a Stream like all others. On a server that can take over the socket it is a
SubscriptionBody. StreamWorker parks that: the greenlet of the request sends what is in the log,
hands the socket to a ParkedSubscriber, and ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import sse
from ..bodies.sources import Chunks, Sender
from ..exceptions import ClientStalled
from ..logs import logger
from ..streaming.connection import Connection
from ..streaming.endings import FAILED, FAREWELL
from ..streaming.environ import CONNECTION
from ..streaming.options import StreamOptions
from ..streaming.record import CloseReason
from ..streaming.stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .parked import ParkedSubscriber

__all__ = ["SubscriptionBody", "SubscriptionChunks"]

log = logger(__name__)

PIECE = 64 * 1024
"""Bytes of the log sent at a time."""


class SubscriptionBody:
    """The events of a subscription, for a WSGI server that may park its socket.

    subscription: a Subscription; the module of that imports this one.
    stream: makes the Stream, for a server that iterates nevertheless. close: called at the end.
    """

    def __init__(
        self,
        subscription: Any,
        stream: Callable[[], Stream],
        close: Callable[[], object] | None,
        environ: WSGIEnvironment,
        options: StreamOptions,
    ) -> None:
        self._subscription = subscription
        self._make = stream
        self._stream: Stream | None = None
        self._close = close
        self._environ = environ
        self._options = options

    @staticmethod
    def of(body: object) -> SubscriptionBody | None:
        """The one that a response's body is, or stands for in the terms of a framework."""
        stands_for: Callable[[], object] | None = getattr(body, "vento_body", None)
        if stands_for is not None:
            body = stands_for()
        return body if isinstance(body, SubscriptionBody) else None

    def __iter__(self) -> Iterator[bytes]:
        self._stream = self._make()
        return iter(self._stream)

    def close(self) -> None:
        close, self._close = self._close, None
        if self._stream is not None:
            self._stream.close()
        elif close is not None:
            close()

    def closes(self, close: Callable[[], object]) -> None:
        """Have `close` called at the end, in place of what was given."""
        self._close = close

    def park(
        self,
        connection: Connection,
        detach: Callable[[], int],
        done: Callable[[int], object] | None,
    ) -> None:
        """Send what there is, and leave the rest to a ParkedSubscriber on what `detach` gives.

        detach: returns the socket's descriptor, which is the subscriber's from then on.
        done: called at the end, if given, with the bytes that were sent. The end can come
            within this call: if the client left, or if reading the log fails, which is logged
            and told to the client by an event.
        """
        from .parked import ParkedSubscriber

        close, self._close = self._close, None  # what it closes may close this
        silent = close is None and done is None
        ended = None if silent else partial(_ended, close, done)
        environ, self._environ = self._environ, {}  # it lasts, and needs no environ
        subscriber = ParkedSubscriber(
            self._subscription, environ, connection.drain, self._options, ended
        )
        connection.limit(self._options.send_timeout or None)
        reason: CloseReason | None = CloseReason.DISCONNECTED
        try:
            reason = self._send_past(subscriber, connection, sse.opening(environ["REQUEST_METHOD"]))
        except ClientStalled:
            reason = CloseReason.STALLED
        except OSError:
            pass
        finally:
            subscriber.open(detach(), self._subscription.position, reason)

    def _send_past(
        self, subscriber: ParkedSubscriber, connection: Connection, ready: bytes
    ) -> CloseReason | None:
        """Send `ready`, and what is in the log; why this is the end, if it is."""

        def send(data: bytes) -> None:
            connection.push((data,), each=True)
            subscriber.sent += len(data)
            subscriber.pieces += 1

        try:
            for frame in self._subscription.catch_up(subscriber.join):
                ready += frame.block
                if len(ready) >= PIECE:
                    send(ready)
                    ready = b""
        except OSError:
            raise
        except Exception:
            fields = subscriber.fields(CloseReason.FAILED)
            log.exception("%s failed in mid-stream", subscriber.route, extra=fields)
            send(ready + FAILED)
            time.sleep(FAREWELL)
            return CloseReason.FAILED
        if ready:
            send(ready)
        return None


def _ended(
    close: Callable[[], object] | None, done: Callable[[int], object] | None, sent: int
) -> None:
    try:
        if close is not None:
            close()
    finally:
        if done is not None:
            done(sent)


class SubscriptionChunks(Chunks):
    """The blocks of a subscription, which a server may send without iterating them."""

    __slots__ = ("_subscription",)

    def __init__(self, subscription: Any) -> None:
        super().__init__(subscription.blocks(), sse.encode)
        self._subscription = subscription

    def as_wsgi(self, environ: WSGIEnvironment, response: Sender) -> Iterable[bytes]:
        connection: Connection | None = environ.get(CONNECTION)
        if connection is None or not connection.can_park:
            return super().as_wsgi(environ, response)
        stream, close = partial(response.as_stream, environ, self), response.closing_apart()
        return SubscriptionBody(self._subscription, stream, close, environ, response.options)
