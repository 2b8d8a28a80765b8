"""Bell: how one who waits is woken, in a greenlet for a fraction of what a Condition costs."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, Protocol

from ..pump import cooperative

__all__ = ["Bell", "bell"]


class Bell(Protocol):
    """One waits, others ring. A ring that comes while nobody waits is kept for the next wait."""

    def ring(self) -> None: ...

    def wait(self, seconds: float | None) -> None:
        """Return when it was rung, or after so many seconds."""


def bell() -> Bell:
    """A bell of the kind that fits here."""
    return _OfGreenlets() if cooperative() else _OfThreads()


class _OfThreads:
    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        self._rung.set()

    def wait(self, seconds: float | None) -> None:
        self._rung.wait(seconds)
        self._rung.clear()


class _OfGreenlets:
    """Who waits is in one hub; who rings may be in another thread."""

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: Any = None

    def ring(self) -> None:
        waiter, self._waiter, self._rung = self._waiter, None, True
        if waiter is not None:
            loop, (get_hub, _) = waiter.hub.loop, _parts()
            here = waiter.hub is get_hub()
            (loop.run_callback if here else loop.run_callback_threadsafe)(waiter.switch, None)

    def wait(self, seconds: float | None) -> None:
        if not self._rung:
            get_hub, Waiter = _parts()  # noqa: N806
            hub = get_hub()
            self._waiter = waiter = Waiter(hub)
            timer = None
            if seconds is not None:
                timer = hub.loop.timer(seconds)
                timer.start(waiter.switch, None, update=True)
            try:
                waiter.get()
            finally:
                self._waiter = None
                if timer is not None:
                    timer.close()
        self._rung = False


@cache
def _parts() -> tuple[Any, Any]:
    from gevent import get_hub
    from gevent.hub import Waiter

    return get_hub, Waiter
