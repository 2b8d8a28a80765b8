"""StreamOptions: the options of a stream."""

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
"""Seconds of silence after which an event stream sends a comment. Many proxies close a connection
that is idle for 30 or 60 seconds.
"""

SEND_TIMEOUT = 60.0
"""Seconds without any progress after which a client is given up, as nginx's send_timeout."""

DrainKind = Literal["end", "break", "finish"]
"""What happens to an open stream when the worker stops.

end: an event stream sends a ``retry``; then the response ends like a complete one.
break: the connection breaks off.
finish: the stream continues until the worker's grace period ends; then it breaks off.
"""


@dataclass(frozen=True)
class StreamOptions:
    """The options of a stream. Times are in seconds; 0 or None turns an option off.

    heartbeat: the bytes that are sent after a silence, and how long the silence is. For an event
        stream a number is enough; its default is 15.
    deadline: the longest time for the whole stream.
    send_timeout: how long the client may take nothing at all. After that the stream ends as
        stalled.
    flush: "idle" sends all chunks that are ready in one write; "each" makes one write per chunk.
    drain: what happens when the worker stops: "end", "break" or "finish"; see DrainKind. With
        "end", a deadline ends the response cleanly as well. The default depends on the client,
        because half a response must not look complete to a client that does not reconnect:
        "end" for EventSource (a GET whose Accept is text/event-stream), "break" for other GETs
        of an event stream, and "finish" for all other methods and bodies.
    on_end: called once, with the Ending.

    Without gevent a heartbeat or a deadline costs the stream a thread. There a stream has them
    only if they are set, and the server has to notice a client that stops reading.
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
        """The heartbeat: its bytes and the seconds of silence before it. None if it is off.

        Raises ValueError if the bytes are not known.
        """
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
        """What happens to a response to this request when the worker stops."""
        if self.drain is not None:
            return self.drain
        if not event_stream or environ["REQUEST_METHOD"] != "GET":
            return "finish"
        # EventSource accepts this type only; a client that also accepts JSON or HTML is a fetch
        accept = environ.get("HTTP_ACCEPT", "").strip().lower()
        return "end" if accept == sse.CONTENT_TYPE else "break"


def _seconds(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if value is not None and not number:
        raise ValueError(f"{name} is a number of seconds, not {value!r}")


DEFAULT = StreamOptions()
"""The options of a stream that sets none."""
