"""Turns: how those who have much to do share a gevent loop with those who have little.

The loop runs every greenlet whose socket is ready before it looks for new connections. With
thousands of clients that take large bodies, each doing a millisecond of work, a short request
would wait for seconds. So whoever has more to do asks here: once the loop has been busy for
MAX_SLICE, the others queue, first come, first served, and get MAX_SLICE of each later round.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

__all__ = ["MAX_SLICE", "Turns", "turns"]

MAX_SLICE = 0.010
"""Seconds that a source may run without giving the loop its turn: what a client can notice."""


class Turns:
    """The queue of one hub."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._waiting: deque[Any] = deque()
        self._iteration = -1
        self._since = 0.0  # when the first in this iteration of the loop has asked
        self._timer: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the loop has been busy for too long in this round."""
        iteration, now = getattr(self._hub.loop, "iteration", -1), perf_counter()
        if iteration != self._iteration:
            self._iteration, self._since = iteration, now
        return now - self._since > MAX_SLICE

    def pause(self) -> None:
        """Go on in a later round if this one has lasted for too long."""
        if self.is_over:
            self.wait()

    def wait(self) -> None:
        """Go on in a later round."""
        me = getcurrent()
        self._waiting.append(me)
        if self._timer is None:
            self._start()
        try:
            self._hub.switch()
        except BaseException:  # something was thrown into this greenlet while it waited
            if me in self._waiting:
                self._waiting.remove(me)
            raise

    def _start(self) -> None:
        # a timer, not a callback: callbacks can go on for many rounds before the loop polls
        self._timer = self._hub.loop.timer(0)
        self._timer.start(self._serve)

    def _serve(self) -> None:
        self._timer.close()
        self._timer = None
        until = perf_counter() + MAX_SLICE
        try:
            for _ in range(len(self._waiting)):
                if not self._waiting or perf_counter() > until:
                    break
                self._waiting.popleft().switch()
        finally:
            if self._waiting and self._timer is None:
                self._start()


def turns() -> Turns:
    """The queue of this thread's hub."""
    hub: Any = get_hub()
    found: Turns | None = getattr(hub, "vento_turns", None)
    if found is None:
        found = hub.vento_turns = Turns(hub)
    return found
