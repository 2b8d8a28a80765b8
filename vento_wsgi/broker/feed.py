"""Feed: a subscription as the body of a response, on a server that can park its socket.

Any server may iterate it; then it is a Stream like all others. StreamWorker parks it instead:
the greenlet of the request sends what is in the log already, leaves the socket to a Slot, and
ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..exceptions import StreamAborted
from ..policies import CloseReason, Policies
from ..sse import OPENING
from ..stream import DRAIN, Stream, route
from .frame import mark

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .subscription import Subscription

__all__ = ["Feed"]

PIECE = 64 * 1024
"""Bytes of the log sent at a time."""


class Feed:
    """The events of `subscription` for a WSGI server. stream: makes the Stream to iterate."""

    def __init__(
        self,
        subscription: Subscription,
        stream: Callable[[], Stream],
        close: Callable[[], object] | None,
        environ: WSGIEnvironment,
        policies: Policies,
    ) -> None:
        self._subscription = subscription
        self._make = stream
        self._stream: Stream | None = None
        self._close = close
        self._route = route(environ)
        self._drain = environ.get(DRAIN)
        self.policies = policies

    @staticmethod
    def of(body: object) -> Feed | None:
        """The feed that a response's body is, or stands for in the terms of a framework."""
        if isinstance(body, Feed):
            return body
        stands_for: Callable[[], Feed | None] | None = getattr(body, "vento_feed", None)
        return None if stands_for is None else stands_for()

    def __iter__(self) -> Iterator[bytes]:
        self._stream = self._make()
        return self._stream

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        elif self._close is not None:
            self._close()

    def closes(self, close: Callable[[], object]) -> None:
        """Have `close` called at the end, in place of what was given."""
        self._close = close

    def park(
        self,
        write: Callable[[bytes], object],
        detach: Callable[[], int],
        done: Callable[[int], object] | None,
    ) -> None:
        """Send what there is by `write`, and leave the rest to a Slot on what `detach` gives.

        done: called at the end, if given, with the bytes that were sent.

        Raises what `write` raises.
        """
        from .slot import Slot

        subscription, fanout = self._subscription, self._subscription.fanout()
        silent = self._close is None and done is None
        ended = None if silent else partial(_ended, self._close, done)
        slot = Slot(subscription, fanout, self.policies, self._route, ended, self._drain)
        reason = CloseReason.FAILED

        def send(data: bytes) -> None:
            nonlocal reason
            try:
                write(data)
            except TimeoutError as error:
                reason = CloseReason.STALLED
                raise StreamAborted(f"{self._route}: the client stopped reading") from error
            except OSError:
                reason = CloseReason.DISCONNECTED
                raise
            slot.sent += len(data)
            slot.pieces += 1

        try:
            ready = OPENING + mark(fanout.log, subscription.position).block
            for frame in subscription.catch_up(lambda: fanout.join(slot)):
                ready += frame.block
                if len(ready) >= PIECE:
                    send(ready)
                    ready = b""
            if ready:
                send(ready)
            slot.open(detach(), subscription.position)
        except BaseException:
            slot.end(reason)
            raise


def _ended(
    close: Callable[[], object] | None, done: Callable[[int], object] | None, sent: int
) -> None:
    if close is not None:
        from gevent import spawn

        spawn(close)  # it is an application's and may wait, and here is the loop
    if done is not None:
        done(sent)
