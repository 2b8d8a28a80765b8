"""WakeEvent: wakes a subscriber that waits; in a greenlet it costs a fraction of a Condition.

One waits, and any number ring, from greenlets of the same hub, from other native threads, or from
both at once. A ring and a wait that meet never miss each other: the waiter shows itself first and
looks for a ring then, and a ring is noted first and looks for the waiter then. Whichever is
second sees the other.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, Protocol

from ..streaming.pumps import cooperative, interruptible

__all__ = ["WakeEvent", "bell"]


class WakeEvent(Protocol):
    """For one waiter. A ring that comes while nobody waits is kept for the next wait."""

    def ring(self) -> None:
        """Wake the waiter. Never waits; from any thread."""

    def wait(self, seconds: float | None) -> None:
        """Return when it was rung, or after so many seconds; now and then without either."""


def bell() -> WakeEvent:
    """A bell of the kind that fits here."""
    return _OfGreenlets() if cooperative() else _OfThreads()


class _OfThreads:
    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        self._rung.set()

    def wait(self, seconds: float | None) -> None:
        with interruptible(self.ring):
            self._rung.wait(seconds)
        self._rung.clear()


class _OfGreenlets:
    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: Any = None

    def ring(self) -> None:
        if not self._rung:  # otherwise the waiter has been woken already, or is about to be
            self._rung = True
            waiter = self._waiter
            if waiter is not None:
                _wake(waiter)

    def wait(self, seconds: float | None) -> None:
        get_hub, waiter_for, _ = _parts()
        hub = get_hub()
        timer = None
        self._waiter = waiter = waiter_for(hub)
        try:
            if not self._rung:
                if seconds is not None:
                    timer = hub.loop.timer(seconds)
                    timer.start(waiter.switch, None, update=True)
                waiter.get()
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()
        self._rung = False


def _wake(waiter: Any) -> None:
    """Have the loop of the waiter's hub switch to it; the hub may be another thread's."""
    hub, (_, _, get_ident) = waiter.hub, _parts()
    loop = hub.loop
    if loop is None:
        return  # its thread has ended, and with it whoever waited there
    try:
        if hub.thread_ident == get_ident():
            loop.run_callback(waiter.switch, None)
        else:
            loop.run_callback_threadsafe(waiter.switch, None)
    except ValueError:
        if hub.loop is not None:  # otherwise the loop has been destroyed in between
            raise


@cache
def _parts() -> tuple[Any, Any, Any]:
    """gevent's get_hub and Waiter, and get_ident of native threads: gevent may not be here."""
    from gevent import get_hub
    from gevent.hub import Waiter
    from gevent.monkey import get_original

    return get_hub, Waiter, get_original("_thread", "get_ident")
