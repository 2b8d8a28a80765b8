"""The ticker: one coarse timer for all streams of a process.

A timer for each stream would cost more than the streams. The ticker has one timer and calls its
members in turn. Under gevent it is a timer of the loop, otherwise a thread. It is made for the
first member, never at import, and it stops when it has no members.
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
"""Seconds between two calls. Options are in whole seconds, so four calls a second are enough."""

BEAT = 0.05
"""Seconds until a departure behind unread bytes is noticed: half of the promised 100 ms."""

SWEEP = 1000
"""Idle members called in one tick. If there are more than four times as many, a quarter of them."""


class Member(Protocol):
    """What a ticker calls every TICK."""

    def tick(self, now: float) -> None:
        """now: time.monotonic()."""


class Suspect(Protocol):
    """What a ticker calls every BEAT."""

    def check(self) -> None: ...


class Ticker:
    """Calls its members every tick, as long as there are any.

    members: called at each tick. idle: called about once a second, since there may be many
    thousands. suspects: called at each beat. Members are added by the methods, which start the
    ticker, and discarded from the sets.
    """

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.idle: set[Member] = set()
        self._sweep: list[Member] = []  # idle members that are not called yet in this round
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
        """Call `watch.check()` every beat, until it is discarded from the suspects."""
        self.suspects.add(watch)
        if not self._beating:
            self._beating = True
            self._run(BEAT, self._beat)

    def _tick(self) -> bool:
        now = time.monotonic()
        for member in tuple(self.members):
            _call(member.tick, now)
        for member in self._next_idle():
            _call(member.tick, now)
        with self._lock:
            self._ticking = False  # first: a member added from here on starts it, or is counted
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
            _call(watch.check)
        self._beating = bool(self.suspects)
        return self._beating

    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        """Call `step` every `interval` seconds until it returns False."""

        def run() -> None:
            while step():
                time.sleep(interval)

        threading.Thread(target=run, name="vento_wsgi ticker", daemon=True).start()


def _call(function: Callable[..., None], *arguments: float) -> None:
    try:
        function(*arguments)
    except Exception:  # the other members are called nevertheless
        log.exception("a member of the ticker failed")


class LoopTicker(Ticker):
    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        from gevent import get_hub

        timer = get_hub().loop.timer(interval, interval, ref=False)

        def run() -> None:
            if not step():
                timer.stop()
                timer.close()

        timer.start(run)


_ticker: Ticker | None = None


def process_ticker(*, cooperative: bool) -> Ticker:
    """The ticker of this process, made at the first call. cooperative: under gevent."""
    global _ticker
    if _ticker is None:
        _ticker = LoopTicker() if cooperative else Ticker()
    return _ticker


def _forget() -> None:
    global _ticker
    _ticker = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)  # it has no timers or threads
