"""StreamRecord: what the rest of the process knows about a stream.

The worker's drain holds all open streams. Observers, the access log and ``on_end`` are told how
each stream ended. ``vento-wsgi top`` asks for its current state.
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
    """How a stream ended: the argument of ``on_end``.

    bytes: bytes given to the server, without framing. chunks: the number of pieces.
    duration: seconds. first: seconds until the first bytes of the source; None if there were
    none, or if this is not known, as for a parked subscriber. backlog: bytes that were made and
    not taken.
    """

    reason: CloseReason
    bytes: int
    chunks: int
    duration: float
    first: float | None = None
    backlog: int = 0


class Snapshot(NamedTuple):
    """The current state of a stream, for ``vento-wsgi top``.

    since, moved: when it started, and when it last sent something, in seconds of monotonic().
    backlog, events: bytes and events that wait for the client. sock: its socket, if known.
    forwarded: the client's address as a proxy reports it. state: what it is doing, in one word.
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
    """Called when any stream of the process opens or ends. Must not block."""

    def opened(self, route: str) -> object:
        """A stream has started; `ended` will follow."""

    def ended(self, route: str, ending: Ending) -> object:
        """A stream has ended."""


observers: list[Observer] = []
"""The observers of this process, which are called for every stream."""


class StreamRecord:
    """A stream as the rest of the process knows it.

    route: its name in logs. drain: the worker's Drain, or None. on_end: called with the Ending.
    start: when it started, in seconds of monotonic(). reason: why it ended; None while it is open.
    sent, pieces: bytes sent to the client, without framing, and the number of pieces.
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
        """Register with the drain and the observers; `_tell` must follow."""
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
        """Its current state."""
        raise NotImplementedError

    def fields(self, reason: CloseReason | None) -> dict[str, object]:
        """The ``extra`` of a log record about it. reason: why it ends, if it does."""
        return {
            "route": self.route,
            "request_id": self.request_id,
            "reason": reason,
            "bytes": self.sent,
            "chunks": self.pieces,
            "duration": monotonic() - self.start,
        }

    def _tell(self, reason: CloseReason, first: float | None, backlog: int) -> None:
        """Report how it ended; called once."""
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
