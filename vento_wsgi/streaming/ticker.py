"""The ticker: one coarse timer for all streams of a process.

A timer for each stream would cost more than the streams. The ticker has one, and calls its
members in turn. Under gevent it is a timer of the loop, elsewhere a thread. It runs while it
has members, and is made when the first of them comes, never at import.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..logs import logger

__all__ = ["LoopTicker", "Member", "Ticker", "process_ticker"]

log = logger(__name__)

TICK = 0.25
"""Seconds: policies are in whole ones, so asking every stream four times in each is enough."""

BEAT = 0.05
"""Seconds: how late a departure behind unread bytes is seen; half of what is promised."""


SWEEP = 1000
"""Idle members asked in one tick, at least; of more than four times as many a quarter is asked."""


class Member(Protocol):
    """What a ticker asks."""

    def tick(self, now: float) -> None:
        """Called every TICK with time.monotonic()."""


class Suspect(Protocol):
    """What a ticker checks every BEAT."""

    def check(self) -> None: ...


class Ticker:
    """Asks its members every tick, for as long as there are any.

    members: asked at each tick. idle: asked once a second or so, since they may be many
    thousands; add_idle() starts the ticker for them.
    """

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.idle: set[Member] = set()
        self._sweep: list[Member] = []  # of the idle ones, those whose turn has not come
        self._step = SWEEP
        self.suspects: set[Suspect] = set()
        self._ticking = self._beating = False
        self._lock = threading.Lock()

    def add(self, member: Member) -> None:
        self.members.add(member)
        self._start()

    def add_idle(self, member: Member) -> None:
        self.idle.add(member)
        self._start()

    def _start(self) -> None:
        if not self._ticking:
            with self._lock:
                starts, self._ticking = not self._ticking, True
            if starts:
                self._run(TICK, self._tick)

    def suspect(self, watch: Suspect) -> None:
        """Ask `watch` every beat until it is taken out of the suspects."""
        self.suspects.add(watch)
        if not self._beating:
            self._beating = True
            self._run(BEAT, self._beat)

    def _tick(self) -> bool:
        now = time.monotonic()
        for member in tuple(self.members):
            _ask(member.tick, now)
        for member in self._next_idle():
            _ask(member.tick, now)
        with self._lock:
            self._ticking = False  # first: who is added from here on sees it, or is seen
            self._ticking = bool(self.members or self.idle)
        return self._ticking

    def _next_idle(self) -> list[Member]:
        if not self._sweep:
            self._sweep = list(self.idle)
            self._step = max(SWEEP, len(self._sweep) // 4 + 1)
        turn, self._sweep = self._sweep[: self._step], self._sweep[self._step :]
        return [member for member in turn if member in self.idle]

    def _beat(self) -> bool:
        for watch in tuple(self.suspects):
            _ask(watch.check)
        self._beating = bool(self.suspects)
        return self._beating

    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        """Call `step` every `interval` seconds until it says False."""

        def run() -> None:
            while step():
                time.sleep(interval)

        threading.Thread(target=run, name="vento_wsgi clock", daemon=True).start()


def _ask(question: Callable[..., None], *arguments: float) -> None:
    try:
        question(*arguments)
    except Exception:  # of one: the others are asked all the same
        log.exception("a member of the clock failed")


class LoopTicker(Ticker):
    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        from gevent import get_hub

        timer = get_hub().loop.timer(interval, interval, ref=False)

        def run() -> None:
            if not step():
                timer.stop()
                timer.close()

        timer.start(run)


_clock: Ticker | None = None


def process_ticker(*, cooperative: bool) -> Ticker:
    """The clock of this process, made when first asked for."""
    global _clock
    if _clock is None:
        _clock = LoopTicker() if cooperative else Ticker()
    return _clock


def _forget() -> None:
    global _clock
    _clock = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)  # timers and threads are the parent's
