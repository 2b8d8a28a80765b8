"""Drain: end the streams of a worker that stops.

Each stream registers here when it starts. How it ends depends on its client; see DrainKind.
Streams whose clients reconnect, to another worker that has the next events, are ended one after
the other over a window of time, so that the clients do not reconnect all at once. Other streams
may continue until gunicorn's graceful_timeout; their handlers see ``ctx.draining``.
"""

from __future__ import annotations

import math
import random
from collections import deque
from time import monotonic
from typing import Any

from ..streaming.record import CloseReason, StreamRecord

__all__ = ["Drain"]

STEP = 0.05
"""Seconds between the steps of a window. Each step ends an equal share, so up to a few hundred."""

KEPT = 20
"""Endings that are remembered for ``vento-wsgi top``: as many as a terminal has room for."""

RETRY = 1000
"""Milliseconds until the first clients reconnect: by then the next worker has started."""

Ended = tuple[str, CloseReason | None, int, float, float]
"""Route, reason, bytes, start and end in seconds of monotonic(): it keeps no stream alive."""


class Drain:
    """The streams of one worker. window: seconds over which its event streams are ended.

    ended: the last KEPT endings.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        self.draining = False
        self.streams: set[StreamRecord] = set()
        self.ended: deque[Ended] = deque(maxlen=KEPT)
        self._waiting: deque[StreamRecord] = deque()

    def add(self, stream: StreamRecord) -> None:
        """Called by a stream when it starts."""
        self.streams.add(stream)
        if self.draining:
            self._waiting.append(stream)

    def discard(self, stream: StreamRecord) -> None:
        """Called by a stream when it has ended."""
        if stream in self.streams:
            self.streams.remove(stream)
            self.ended.append((stream.route, stream.reason, stream.sent, stream.start, monotonic()))

    def begin(self, loop: Any, longest: float) -> None:
        """Start to drain; called in the event loop. longest: seconds until the worker must stop."""
        self.draining = True
        self._waiting.extend(self.streams)
        window = max(min(self.window, longest), STEP)
        a_step = max(1, math.ceil(len(self._waiting) * STEP / window))
        timer = loop.timer(STEP, STEP)

        def step() -> None:
            for _ in range(min(a_step, len(self._waiting))):
                stream = self._waiting.popleft()
                if stream in self.streams:
                    # clients reconnect over a window of the same length
                    jitter = random.randint(0, round(self.window * 1000))
                    stream.drain(retry=RETRY + jitter)

        timer.start(step)
        step()

    def end(self) -> None:
        """End all remaining streams; called when the worker's time is over."""
        for stream in tuple(self.streams):
            stream.cut()
