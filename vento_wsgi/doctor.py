"""pulse: a stream for the doctor to look at, from the application's side of all proxies.

    router.get("/pulse")(pulse())

Each event says when it was made, and the first of a connection how the request arrived: what
a proxy does on its far side shows nowhere else.
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
"""Seconds between two events: a dozen while somebody waits, and nothing for a server to do."""


def pulse(interval: float = INTERVAL) -> Callable[[Context], Response]:
    """A handler whose events come every `interval` seconds for as long as the client stays."""

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
