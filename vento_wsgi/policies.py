"""Policies: what a stream is promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import sse
from .account import Ending

__all__ = ["DEFAULT", "SEND_TIMEOUT", "Policies"]

HEARTBEAT = 15.0
"""Seconds of silence in an event stream: proxies cut connections that are idle for 30 or 60."""

SEND_TIMEOUT = 60.0
"""Seconds for a client to take one piece, as in nginx: who needs longer has stopped reading."""


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
