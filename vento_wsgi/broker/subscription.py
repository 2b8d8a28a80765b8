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

    Raises Lagged if it was taken too slowly, BrokerError if the log fails or was closed.
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
        self.log = source
        self.slow: Slow = slow
        self.backlog = backlog
        self._waiting = Backlog(source, backlog, slow)
        self._gap = False
        self.position: Position = None if after is None else source.position(after)
        if after is None:
            self.position = source.last()
        elif self.position is None or source.lost(self.position):
            self._gap = True
            self.position = source.first()
        self._open = fanout
        self._fanout: Fanout | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._over: BrokerError | None = None
        self._iterator: Iterator[Frame] | None = None

    @property
    def last_id(self) -> str:
        return self.log.id(self.position)

    def __next__(self) -> sse.Event:
        if self._iterator is None:
            self._iterator = self._frames()
        (event,) = sse.decode([next(self._iterator).block])
        return event

    def close(self) -> None:
        """End the subscription; further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._fanout is not None:
            self._fanout.leave(self)

    # for a browser

    def blocks(self) -> Iterator[bytes]:
        """The events as blocks, and marks in between. Ends where one is dismissed."""
        yield mark(self.log, self.position).block
        try:
            for frame in self._frames(MARK):
                yield frame.block
        except BrokerError as error:
            if error is not self._over:
                raise
        finally:
            self.close()

    def fanout(self) -> Fanout:
        """Who tells it, from the first time it is asked for."""
        if self._fanout is None:
            self._fanout = self._open()
        return self._fanout

    def catch_up(self, join: Callable[[Fanout], Position]) -> Iterator[Frame]:
        """What is in the log, and then, after `join` was called, what has come in the meantime.

        join: has the caller told of what comes; returns the position after which it will be.
        """
        fanout, joined = self.fanout(), None
        if self._gap:
            self._gap = False
            yield gap(self.log, self.position)
        if self.position >= fanout.position:
            joined = join(fanout)
        while joined is None or joined > self.position:
            entries = self.log.read(self.position, self.topics, PAGE)
            more = len(entries) == PAGE
            if self.log.lost(self.position):  # it was, before it could be read
                self.position = self.log.first()
                yield gap(self.log, self.position)
            for entry in entries:
                if entry.position > self.position:
                    self.position = entry.position
                    yield Frame.of(entry, self.log)
            if more:
                continue
            if joined is None:
                joined = join(fanout)
            else:
                self.position = max(joined, self.position)

    # the iterator's side

    def _frames(self, patience: float | None = None) -> Iterator[Frame]:
        """patience: seconds of waiting until a mark is given."""
        try:
            for frame in self.catch_up(lambda fanout: fanout.join(self)):
                if self._closed:
                    return
                yield frame
            with self._changed:
                self._waiting.skip(self.position)
            while (next_one := self._wait(patience)) is not None:
                self.position = next_one.position
                yield next_one
        finally:
            if self._fanout is not None:
                self._fanout.leave(self)

    def _wait(self, patience: float | None) -> Frame | None:
        with self._changed:
            until = None if patience is None else time.monotonic() + patience
            while not self._closed:
                if self._waiting:
                    return self._waiting.take()
                if self._over is not None:
                    raise self._over
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return mark(self.log, max(self.fanout().told, self.position))
                self._changed.wait(left)
            return None

    # the fan-out's side

    def put(self, frame: Frame) -> None:
        with self._changed:
            if self._over is not None or frame.position <= self.position:
                return
            if not self._waiting.add(frame):
                self._waiting.clear()
                self._end(
                    Lagged(
                        "the subscriber is too slow: its backlog is full; subscribe again after "
                        "its last_id, or give it a larger backlog"
                    )
                )
            self._changed.notify()

    def dismiss(self) -> None:
        with self._changed:
            if self._over is None:
                self._end(
                    BrokerError(
                        "the broker has been closed, or its log is another one now; "
                        "subscribe again after the subscription's last_id"
                    )
                )
            self._changed.notify()

    def _end(self, error: BrokerError) -> None:
        self._over = error
        self.fanout().leave(self)
