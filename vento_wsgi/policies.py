"""What a stream is promised, and what is said of its end."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import sse

__all__ = ["DEFAULT", "SEND_TIMEOUT", "CloseReason", "Ending", "Policies", "Snapshot"]

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
    """

    reason: CloseReason
    bytes: int
    chunks: int
    duration: float


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
        return self.on_end is not None or access.isEnabledFor(logging.INFO)

    def tell(self, route: str, ending: Ending) -> None:
        """Say how a stream of `route` ended: to the access log, and to on_end."""
        access.info(
            "%s %s: %d bytes, %d pieces, %.3f s",
            route,
            ending.reason,
            ending.bytes,
            ending.chunks,
            ending.duration,
        )
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
