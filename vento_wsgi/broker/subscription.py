"""Subscription: the events of some topics, from the log first and then live."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import sse
from ..exceptions import BrokerError
from .frame import Backlog, Frame, Slow, gap, mark
from .log import Log, Position, Topics

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Lagged", "Subscription"]

PAGE = 200
"""Entries read of the log at a time: a fraction of a millisecond for other greenlets to wait."""

MARK = 14.0
"""Seconds of silence after which a subscriber is told where it stands: before any heartbeat."""


class Lagged(BrokerError):
    """A subscriber took its events so slowly that its backlog is full.

    It can go on without loss: ``subscribe(*topics, after=subscription.last_id)``.
    """


class Subscription(Iterator[sse.Event]):
    """An iterator of every event of its topics, each once and in order; it waits for the next.

    As the items of ``ctx.sse`` it sends them to a browser. Each event has an id; ``last_id`` is
    that of the newest one given, or where the subscription began. ``close()`` ends it, also
    from another greenlet or thread. Where events are missing (they are no longer kept, or
    were dropped) there is one named "gap" in their place.

    Raises Lagged if it was taken too slowly, BrokerError if the log fails.
    """

    def __init__(
        self,
        source: Log,
        fanout: Callable[[], Fanout],
        topics: Topics,
        after: str | None,
        slow: Slow,
        backlog: int,
    ) -> None:
        self.topics = topics
        self._log = source
        self.fanout = fanout
        self.slow: Slow = slow
        self.backlog = backlog
        self._gap = False
        self.position: Position = None if after is None else source.position(after)
        if after is None:
            self.position = source.last()
        elif self.position is None or source.lost(self.position):
            self._gap = True
            self.position = source.first()
        self._waiting: Backlog | None = None
        self._changed: threading.Condition | None = None
        self._lagged = self._closed = False
        self._iterator = self._frames()

    @property
    def last_id(self) -> str:
        return self._log.id(self.position)

    def __next__(self) -> sse.Event:
        frame = next(self._iterator)
        (event,) = sse.decode([frame.block])
        return event

    def close(self) -> None:
        """End the subscription; further calls do nothing."""
        self._closed = True
        changed = self._changed
        if changed is not None:
            self.fanout().leave(self)
            with changed:
                changed.notify_all()

    # for a browser

    def blocks(self) -> Iterator[bytes]:
        """The events as blocks, and marks in between. Ends where the iterator raises Lagged."""
        yield mark(self._log, self.position).block
        try:
            for frame in self._frames(MARK):
                yield frame.block
        except Lagged:
            return
        finally:
            self.close()

    def catch_up(self, join: Callable[[], Position]) -> Iterator[Frame]:
        """What is in the log, and then, after `join` was called, what has come in the meantime.

        join: has the caller told of what comes; returns the position after which it will be.
        """
        if self._gap:
            self._gap = False
            yield gap(self._log, self.position)
        fanout = self.fanout()
        joined: Position | None = None
        if self.position >= fanout.position:
            joined = join()
        while joined is None or joined > self.position:
            entries = self._log.read(self.position, self.topics, PAGE)
            for entry in entries:
                self.position = entry.position
                yield Frame.of(entry, self._log)
            if len(entries) < PAGE:
                if joined is None:
                    joined = join()
                else:
                    self.position = max(joined, self.position)

    # the iterator's side

    def _frames(self, patience: float | None = None) -> Iterator[Frame]:
        """patience: seconds of waiting until a mark is given."""
        self._changed = threading.Condition()
        self._waiting = backlog = Backlog(self._log, self.backlog, self.slow)
        fanout = self.fanout()
        try:
            yield from self.catch_up(lambda: fanout.join(self))
            backlog.skip(self.position)
            while (frame := self._wait(backlog, patience)) is not None:
                self.position = frame.position
                yield frame
        finally:
            fanout.leave(self)

    def _wait(self, backlog: Backlog, patience: float | None) -> Frame | None:
        assert self._changed is not None
        with self._changed:
            until = None if patience is None else time.monotonic() + patience
            while not backlog and not self._closed and not self._lagged:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return mark(self._log, max(self.fanout().told, self.position))
                self._changed.wait(left)
            if self._closed:
                return None
            if self._lagged:
                raise Lagged(
                    "the subscriber is too slow: its backlog is full; subscribe again after "
                    f"its last_id, {self.last_id!r}, or give it a larger backlog"
                )
            return backlog.take()

    # the fan-out's side

    def put(self, frame: Frame) -> None:
        assert self._changed is not None
        assert self._waiting is not None
        with self._changed:
            if frame.position <= self.position:
                return
            if not self._lagged and not self._waiting.add(frame):
                self._lagged = True
                self._waiting.clear()
            self._changed.notify()
