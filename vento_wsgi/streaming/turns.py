"""Turns: share a gevent loop fairly between long and short work.

The loop runs every greenlet whose socket is ready before it looks for new connections. With
thousands of clients that take large bodies, a millisecond of work each, a short request would wait
for seconds. So a greenlet with more work calls pause(). Once the loop has been busy for MAX_SLICE
in this round, such greenlets wait in a queue, first in, first out. In each later round they
get MAX_SLICE together.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

__all__ = ["MAX_SLICE", "Turns", "turns"]

MAX_SLICE = 0.010
"""Seconds that a source may keep the loop busy: about what a client can notice."""


class Turns:
    """The queue of one hub."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._waiting: deque[Any] = deque()
        self._iteration = -1
        self._since = 0.0  # when somebody first asked in this round of the loop
        self._timer: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the loop has been busy for more than MAX_SLICE in this round."""
        iteration, now = getattr(self._hub.loop, "iteration", -1), perf_counter()
        if iteration != self._iteration:
            self._iteration, self._since = iteration, now
        return now - self._since > MAX_SLICE

    def pause(self) -> None:
        """Continue in a later round if this one is over."""
        if self.is_over:
            self.wait()

    def wait(self) -> None:
        """Continue in a later round."""
        me = getcurrent()
        self._waiting.append(me)
        if self._timer is None:
            self._start()
        try:
            self._hub.switch()
        except BaseException:  # an exception was thrown into this greenlet
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
