"""pulse: an event stream that ``vento-wsgi doctor`` can examine in detail.

    router.get("/pulse")(pulse())

Each event says when it was made. The first of a connection also says how the request reached the
application: nothing else shows how a proxy talks to the server behind it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from .context import Context
from .response import Response
from .sse import Event

__all__ = ["pulse"]

INTERVAL = 0.25
"""Seconds between two events: enough events in a few seconds, at almost no cost."""


def pulse(interval: float = INTERVAL) -> Callable[[Context], Response]:
    """A handler that sends an event every `interval` seconds while the client is connected."""

    def pulse(ctx: Context) -> Response:
        environ, last = ctx.request.environ, ctx.last_event_id
        first = int(last) + 1 if last and last.isascii() and last.isdigit() else 1
        seen = {
            "protocol": environ["SERVER_PROTOCOL"],
            "server": environ.get("SERVER_SOFTWARE", ""),
            "threads": bool(environ.get("wsgi.multithread")),
        }

        def beats() -> Iterator[Event]:
            more: dict[str, object] = {"seen": seen}
            for number in itertools.count(first):
                yield Event({"time": time.time(), **more}, id=number)
                more = {}
                time.sleep(interval)

        return ctx.sse(beats())

    return pulse
