"""StreamOptions: what a stream is promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from .. import sse
from .record import Ending

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["DEFAULT", "SEND_TIMEOUT", "DrainKind", "StreamOptions"]

HEARTBEAT = 15.0
"""Seconds of silence in an event stream: proxies cut connections that are idle for 30 or 60."""

SEND_TIMEOUT = 60.0
"""Seconds without any progress, as in nginx, after which a client has stopped reading."""

DrainKind = Literal["end", "break", "finish"]
"""What becomes of an open stream when the worker stops.

end: an event stream sends a ``retry``; then the response ends as if it were whole.
break: the connection breaks off.
finish: the stream goes on until the worker's grace period ends, and then breaks off.
"""


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is promised beyond its chunks. Times are seconds; 0 or None turns one off.

    heartbeat: the bytes that are sent after so long a silence, and how long; in an event
        stream a number is enough, and 15 the default.
    deadline: for the whole stream.
    send_timeout: how long the client may take nothing at all; past it, it has stopped reading.
    flush: "idle" sends together what is ready together, "each" makes one write a chunk.
    drain: what happens when the worker stops: "end", "break" or "finish"; see DrainKind. With
        "end" a deadline ends the response cleanly, too. By default it depends on who reads,
        since half an answer must not look whole to a client that does not come back:
        "end" for EventSource (a GET whose Accept is text/event-stream), "break" for other GETs
        of an event stream, and "finish" for all other methods and bodies.
    on_end: called once, with the Ending.

    Without gevent a heartbeat or a deadline costs the stream a thread, so it has them only if
    they were asked for, and a client that stops reading is the server's to notice.
    """

    heartbeat: tuple[bytes, float] | float | None = None
    deadline: float | None = None
    send_timeout: float | None = SEND_TIMEOUT
    flush: str = "idle"
    drain: DrainKind | None = None
    on_end: Callable[[Ending], object] | None = None

    def __post_init__(self) -> None:
        if self.flush not in ("idle", "each"):
            raise ValueError(f'flush is "idle" or "each", not {self.flush!r}')
        if self.drain is not None and self.drain not in get_args(DrainKind):
            raise ValueError(f'drain is "end", "break" or "finish", not {self.drain!r}')
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
            return (sse.COMMENT, interval) if interval else None
        if self.heartbeat:
            raise ValueError(
                "only an event stream knows what its heartbeat sends: "
                f'heartbeat=(b"…", {self.heartbeat})'
            )
        return None

    def drain_for(self, environ: WSGIEnvironment, *, event_stream: bool) -> DrainKind:
        """What happens to a stream that answers this request when the worker stops."""
        if self.drain is not None:
            return self.drain
        if not event_stream or environ["REQUEST_METHOD"] != "GET":
            return "finish"
        # EventSource accepts nothing else; what also takes JSON or HTML is a fetch
        accept = environ.get("HTTP_ACCEPT", "").strip().lower()
        return "end" if accept == sse.CONTENT_TYPE else "break"


def _seconds(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if value is not None and not number:
        raise ValueError(f"{name} is a number of seconds, not {value!r}")


DEFAULT = StreamOptions()
"""What a stream is promised when nobody has said otherwise."""
