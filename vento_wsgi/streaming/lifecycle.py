"""The life of a stream, whoever makes its bytes: a source, or the fan-out of a broker.

What happens to a stream from outside comes here: the ticker (heartbeat, deadline), the client's
socket (it has left, or closed its sending side), and the worker that stops. Each of these asks
the stream for one of three things, which it does in its own way:

    say       put a few bytes in now, if the stream stands where they may be
    finish    end once all before has been sent
    abort     end now
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import sse
from .environ import request_id, route
from .options import StreamOptions
from .record import CloseReason, StreamRecord

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .options import DrainKind

__all__ = ["STUCK", "Lifecycle"]

STUCK = 1.0
"""Seconds after its deadline for which a stream may still wait for its client."""


class Lifecycle(StreamRecord):
    """A stream with options, from its head to its ending.

    beat: what the heartbeat sends, and after how many seconds of silence; None for none.
    """

    __slots__ = ("_beat", "_drains", "_event_stream", "options")

    def __init__(
        self,
        environ: WSGIEnvironment,
        drain: Any,
        options: StreamOptions,
        beat: tuple[bytes, float] | None,
        *,
        event_stream: bool,
    ) -> None:
        super().__init__(route(environ), drain, options.on_end, request_id(environ))
        self.options = options
        self._beat = beat
        self._event_stream = event_stream
        self._drains: DrainKind = options.drain_for(environ, event_stream=event_stream)

    # from the loop or the ticker's thread

    def tick(self, now: float) -> None:
        """Called by the ticker: look whether something is due."""
        deadline = self.options.deadline
        if deadline and now - self.start >= deadline:
            self._finish(CloseReason.DEADLINE, b"")
            if now - self.start >= deadline + STUCK:
                self._abort(CloseReason.DEADLINE)
        elif self._beat is not None and now - self._moved >= self._beat[1] and self._is_silent:
            self._moved = now
            self._say(self._beat[0])

    def drain(self, retry: int) -> None:
        """Called when the worker stops. retry: milliseconds after which a client may come back."""
        if self._drains != "finish":
            block = sse.Event(retry=retry).encode() if self._event_stream else b""
            self._finish(CloseReason.DRAINING, block)

    def left(self) -> None:
        """Called when the client has gone."""
        self._abort(CloseReason.DISCONNECTED)

    def half_closed(self) -> None:
        """Called when the client has closed its sending side: it may have gone, or not."""
        self._say(sse.COMMENT)

    @property
    def ends_whole(self) -> bool:
        """Whether the end of a deadline or of the worker may look like a whole response."""
        return self._drains == "end"

    @property
    def _is_silent(self) -> bool:
        """Whether it waits for its source, and not for its client."""
        raise NotImplementedError

    def _say(self, block: bytes) -> None:
        raise NotImplementedError

    def _finish(self, reason: CloseReason, block: bytes) -> None:
        """End once all before has been sent. block: what an event stream sends last."""
        raise NotImplementedError

    def _abort(self, reason: CloseReason) -> None:
        raise NotImplementedError
