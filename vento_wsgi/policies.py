"""What a stream is promised, and what is said of its end."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from . import sse

__all__ = [
    "DEFAULT",
    "SEND_TIMEOUT",
    "CloseReason",
    "Ending",
    "Observer",
    "Policies",
    "Snapshot",
    "observers",
    "opened",
]

log = logging.getLogger(__name__)
access = logging.getLogger("vento_wsgi.access")

HEARTBEAT = 15.0
"""Seconds of silence in an event stream: proxies cut connections that are idle for 30 or 60."""

SEND_TIMEOUT = 60.0
"""Seconds for a client to take one piece, as in nginx: who needs longer has stopped reading."""


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


class Observer(Protocol):
    """One who is told of all streams of the process, as of their routes. It may not wait."""

    def opened(self, route: str) -> object:
        """A stream begins: its `ended` will come."""

    def ended(self, route: str, ending: Ending) -> object:
        """A stream has ended."""


observers: list[Observer] = []
"""Those who are told, from the first stream on; none costs nothing."""


def opened(route: str) -> None:
    """Tell the observers that a stream of `route` begins."""
    for observer in observers:
        _call(route, observer.opened, route)


def _call(route: str, function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception:
        log.exception("%s: %s failed", route, getattr(function, "__name__", function))


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


@dataclass(frozen=True)
class Policies:
    """What a stream is promised beyond its chunks. Times are in seconds; 0 and None are without.

    heartbeat: the bytes that are sent after so long a silence, and how long; in an event
        stream a number is enough, and 15 the default.
    deadline: for the whole stream.
    send_timeout: for the client to take one piece; past it, it has stopped reading.
    flush: "idle" sends together what is ready together, "each" makes one write a chunk.
    on_end: called once, with the Ending.

    Without gevent a heartbeat or a deadline costs the stream a thread, so it has them only if
    they were asked for, and a client that stops reading is the server's to notice.
    """

    heartbeat: tuple[bytes, float] | float | None = None
    deadline: float | None = None
    send_timeout: float | None = SEND_TIMEOUT
    flush: str = "idle"
    on_end: Callable[[Ending], object] | None = None

    def __post_init__(self) -> None:
        if self.flush not in ("idle", "each"):
            raise ValueError(f'flush is "idle" or "each", not {self.flush!r}')
        for name in ("deadline", "send_timeout"):
            _seconds(name, getattr(self, name))
        if isinstance(self.heartbeat, tuple):
            content, interval = self.heartbeat
            if not isinstance(content, bytes) or not content:
                raise ValueError(f"a heartbeat sends bytes, not {content!r}")
            _seconds("heartbeat", interval)
        else:
            _seconds("heartbeat", self.heartbeat)

    @property
    def told(self) -> bool:
        """Whether anybody is told how a stream ends."""
        return bool(self.on_end or observers) or access.isEnabledFor(logging.INFO)

    def tell(self, route: str, ending: Ending) -> None:
        """Say how a stream of `route` ended: to the access log, the observers, and on_end."""
        access.info(
            "%s %s: %d bytes, %d pieces, %.3f s",
            route,
            ending.reason,
            ending.bytes,
            ending.chunks,
            ending.duration,
        )
        for observer in observers:
            _call(route, observer.ended, route, ending)
        if self.on_end is not None:
            try:
                self.on_end(ending)
            except Exception:
                log.exception("%s: on_end failed", route)

    def beat(self, *, event_stream: bool) -> tuple[bytes, float] | None:
        """What the heartbeat sends and after how many seconds. Raises ValueError."""
        if isinstance(self.heartbeat, tuple):
            return self.heartbeat if self.heartbeat[1] else None
        if event_stream:
            interval = HEARTBEAT if self.heartbeat is None else self.heartbeat
            return (sse.OPENING, interval) if interval else None
        if self.heartbeat:
            raise ValueError(
                "only an event stream knows what its heartbeat sends: "
                f'heartbeat=(b"…", {self.heartbeat})'
            )
        return None


def _seconds(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if value is not None and not number:
        raise ValueError(f"{name} is a number of seconds, not {value!r}")


DEFAULT = Policies()
"""What a stream is promised when nobody has said otherwise."""
