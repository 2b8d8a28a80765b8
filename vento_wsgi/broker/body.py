"""SubscriptionBody: a subscription as the body of a response, on a server that can park its socket.

Any server may iterate it; then it is a Stream like all others. StreamWorker parks it instead:
the greenlet of the request sends what is in the log already, leaves the socket to a
ParkedSubscriber, and ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..exceptions import ClientStalled
from ..logs import logger
from ..sse import opening
from ..streaming.connection import Connection
from ..streaming.endings import FAILED, FAREWELL
from ..streaming.options import StreamOptions
from ..streaming.record import CloseReason
from ..streaming.stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .parked import ParkedSubscriber
    from .subscription import Subscription

__all__ = ["SubscriptionBody"]

log = logger(__name__)

PIECE = 64 * 1024
"""Bytes of the log sent at a time."""


class SubscriptionBody:
    """The events of `subscription` for a WSGI server. stream: makes the Stream to iterate.

    close: frees what else the response holds.
    """

    def __init__(
        self,
        subscription: Subscription,
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

        done: called at the end, if given, with the bytes that were sent. The end may be here:
        where the client is gone, or the log fails, which is logged and told by an event.
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
            reason = self._send_past(subscriber, connection, opening(environ["REQUEST_METHOD"]))
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
