"""Drain: how the streams of a worker that stops come to their end.

Streams tell the worker, the worker does not search for them. What happens to one depends on who
reads it; see DrainKind. Those whose client comes back, where another worker has the next events,
end one after the other over a window, so that they do not come back all at once. The others may
go on until gunicorn's graceful_timeout; their handlers see ``ctx.draining``.
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
"""Seconds between the steps of a window: a few hundred streams then end at a time."""

KEPT = 20
"""Endings that are remembered: as many as a terminal has room for."""

RETRY = 1000
"""Milliseconds until the first clients come back: the next worker has started by then."""

Ended = tuple[str, CloseReason | None, int, float, float]
"""Route, reason, bytes, and when it began and ended, by monotonic(). No stream is kept for it."""


class Drain:
    """The streams of one worker. window: seconds over which its event streams end.

    ended: the last of them that are no more.
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
        """Called in the loop when the worker is told to stop. longest: seconds that it has."""
        self.draining = True
        self._waiting.extend(self.streams)
        window = max(min(self.window, longest), STEP)
        a_step = max(1, math.ceil(len(self._waiting) * STEP / window))
        timer = loop.timer(STEP, STEP)

        def step() -> None:
            for _ in range(min(a_step, len(self._waiting))):
                stream = self._waiting.popleft()
                if stream in self.streams:
                    # the clients return over the same window, whenever they were told to
                    jitter = random.randint(0, round(self.window * 1000))
                    stream.drain(retry=RETRY + jitter)

        timer.start(step)
        step()

    def end(self) -> None:
        """Called when the worker's time is over: end the streams that nobody else does."""
        for stream in tuple(self.streams):
            stream.cut()
