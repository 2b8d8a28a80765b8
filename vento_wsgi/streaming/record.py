"""StreamRecord: what is told of a stream, from its beginning to its end.

The worker that drains knows all that are open; observers, the access log and ``on_end`` are
told how each ended; ``vento-wsgi top`` asks how it is just now.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple, Protocol

from ..logs import logger

__all__ = ["CloseReason", "Ending", "Observer", "Snapshot", "StreamRecord", "observers"]

log = logger(__name__)
access = logger("vento_wsgi.access")


class CloseReason(str, enum.Enum):
    """Why a stream ended."""

    EXHAUSTED = "exhausted"
    DISCONNECTED = "disconnected"
    DEADLINE = "deadline"
    STALLED = "stalled"
    DRAINING = "draining"
    FAILED = "failed"

    __str__ = str.__str__


@dataclass(frozen=True)
class Ending:
    """How a stream ended: what ``on_end`` is given.

    bytes: handed to the server, without framing. chunks: in how many pieces. duration: seconds.
    first: seconds until the source gave something; None if it never did, or it is not known,
        as of a subscription whose socket is parked. backlog: bytes made that were not taken.
    """

    reason: CloseReason
    bytes: int
    chunks: int
    duration: float
    first: float | None = None
    backlog: int = 0


class Snapshot(NamedTuple):
    """A stream as it is just now, for ``vento-wsgi top``.

    since, moved: when it began, and last sent something, in seconds of monotonic().
    backlog, events: bytes and events that wait for the client. sock: its socket, if known.
    forwarded: whom a proxy speaks for, as it says. state: what it is doing, in a word.
    """

    route: str
    since: float
    moved: float
    bytes: int
    chunks: int
    backlog: int
    events: int
    state: str
    sock: Any
    forwarded: str


class Observer(Protocol):
    """One who is told of all streams of the process, as of their routes. It may not wait."""

    def opened(self, route: str) -> object:
        """A stream begins: its `ended` will come."""

    def ended(self, route: str, ending: Ending) -> object:
        """A stream has ended."""


observers: list[Observer] = []
"""Those who are told, from the first stream on; none costs nothing."""


class StreamRecord:
    """One stream, as others know it.

    route: what it is called. drain: the worker's, if it has one. on_end: called with the Ending.
    start: when it began, in seconds of monotonic(). reason: why it ended, once it has.
    sent, pieces: bytes that the client was sent, without framing, and in how many pieces.
    request_id: X-Request-ID of its request, for log records.
    """

    __slots__ = (
        *("_drain", "_moved", "_on_end", "pieces", "reason", "request_id", "route", "sent"),
        "start",
    )

    def __init__(
        self,
        route: str,
        drain: Any,
        on_end: Callable[[Ending], object] | None,
        request_id: str | None,
    ) -> None:
        self.route = route
        self.request_id = request_id
        self.reason: CloseReason | None = None
        self.sent = self.pieces = 0
        self.start = self._moved = monotonic()
        self._drain = drain
        self._on_end = on_end

    def _enter(self) -> None:
        """Be known from here on; to be followed by `_tell`."""
        if self._drain is not None:
            self._drain.add(self)
        for observer in observers:
            self._call(observer.opened, self.route)

    def drain(self, retry: int) -> None:
        """Called when the worker stops. retry: milliseconds after which a client may come back."""
        raise NotImplementedError

    def cut(self) -> None:
        """Called when the worker's grace period is over."""

    @property
    def snapshot(self) -> Snapshot:
        """How it is just now."""
        raise NotImplementedError

    def fields(self, reason: CloseReason | None) -> dict[str, object]:
        """What a log record says of it, as ``extra``. reason: why it ends, if it does."""
        return {
            "route": self.route,
            "request_id": self.request_id,
            "reason": reason,
            "bytes": self.sent,
            "chunks": self.pieces,
            "duration": monotonic() - self.start,
        }

    def _tell(self, reason: CloseReason, first: float | None, backlog: int) -> None:
        """Say how it ended; once."""
        listened = self._on_end is not None or observers or access.isEnabledFor(logging.INFO)
        try:
            if listened:
                duration = monotonic() - self.start
                ending = Ending(reason, self.sent, self.pieces, duration, first, backlog)
                access.info(
                    "%s %s: %d bytes, %d pieces, %.3f s",
                    *(self.route, reason, self.sent, self.pieces, duration),
                    extra=self.fields(reason),
                )
                for observer in observers:
                    self._call(observer.ended, self.route, ending)
                if self._on_end is not None:
                    self._call(self._on_end, ending)
        finally:
            if self._drain is not None:
                self._drain.discard(self)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            name = "on_end" if function is self._on_end else getattr(function, "__name__", function)
            fields = self.fields(self.reason)
            log.exception("%s: %s failed", self.route, name, extra=fields)
