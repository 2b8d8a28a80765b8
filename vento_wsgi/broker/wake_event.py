"""WakeEvent: wakes one waiting subscriber; in a greenlet it costs a fraction of a Condition.

One greenlet or thread waits. Any number may call set(), from greenlets of the same hub, from other
native threads, or from both at the same time. No call of set() is missed: wait() first stores its
waiter and then checks the flag, while set() first sets the flag and then looks for a waiter. So
the one that comes second sees the other.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, Protocol

from ..streaming.pumps import cooperative, interruptible

__all__ = ["WakeEvent", "wake_event"]


class WakeEvent(Protocol):
    """An event for one waiter. If nobody waits, set() makes the next wait() return at once."""

    def set(self) -> None:
        """Wake the waiter. Never waits. May be called in any thread."""

    def wait(self, seconds: float | None) -> None:
        """Wait for set(), at most `seconds`, then clear the event. May also return earlier."""


def wake_event() -> WakeEvent:
    """A WakeEvent for greenlets if gevent has patched `threading`, else for threads."""
    return _OfGreenlets() if cooperative() else _OfThreads()


class _OfThreads:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds: float | None) -> None:
        with interruptible(self.set):
            self._event.wait(seconds)
        self._event.clear()


class _OfGreenlets:
    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: Any = None

    def set(self) -> None:
        if not self._is_set:  # if it is set, the waiter is already being woken
            self._is_set = True
            waiter = self._waiter
            if waiter is not None:
                _wake(waiter)

    def wait(self, seconds: float | None) -> None:
        get_hub, waiter_for, _ = _parts()
        hub = get_hub()
        timer = None
        self._waiter = waiter = waiter_for(hub)
        try:
            if not self._is_set:
                if seconds is not None:
                    timer = hub.loop.timer(seconds)
                    timer.start(waiter.switch, None, update=True)
                waiter.get()
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()
        self._is_set = False


def _wake(waiter: Any) -> None:
    """Schedule a switch to the waiter in the loop of its hub, which may be of another thread."""
    hub, (_, _, get_ident) = waiter.hub, _parts()
    loop = hub.loop
    if loop is None:
        return  # the thread of the hub has ended, and so has the waiter
    try:
        if hub.thread_ident == get_ident():
            loop.run_callback(waiter.switch, None)
        else:
            loop.run_callback_threadsafe(waiter.switch, None)
    except ValueError:
        if hub.loop is not None:  # None: the loop was destroyed meanwhile
            raise


@cache
def _parts() -> tuple[Any, Any, Any]:
    """gevent's get_hub and Waiter, and the native get_ident. Imported late: gevent is optional."""
    from gevent import get_hub
    from gevent.hub import Waiter
    from gevent.monkey import get_original

    return get_hub, Waiter, get_original("_thread", "get_ident")
