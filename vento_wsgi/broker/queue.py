"""SubscriberQueue: the events of one subscriber that it has not taken yet.

The fan-out puts them in, in its thread or greenlet; the subscriber takes them out, in its own.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..exceptions import BrokerError, Lagged
from ..sse import COMMENT
from .backends.event_log import EventLog, Position, Topics
from .frames import Backlog, Frame, Slow
from .wake_event import wake_event

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Lagged", "SubscriberQueue"]


class SubscriberQueue:
    """The frames of `topics` that were not taken yet. `slow` says what happens beyond `limit`.

    over: the error that ended the subscription, if any. closed: whether the subscriber has left.
    """

    def __init__(self, source: EventLog, topics: Topics, limit: int, slow: Slow) -> None:
        self.topics = topics
        self.over: BrokerError | None = None
        self.closed = False
        self._backlog = Backlog(source, limit, slow)
        self._after: Position | None = None  # None until the first skip() or take()
        self._wake_event = wake_event()
        self._lock = threading.Lock()
        self._fanout: Fanout | None = None

    # the subscriber's side

    def join(self, fanout: Fanout) -> Position:
        """Register with the fan-out. Returns the position after which it puts events in."""
        self._fanout = fanout
        position = fanout.join(self)
        if self.closed:  # closed meanwhile by another greenlet or thread
            self.leave()
        return position

    def leave(self) -> None:
        """Unregister from the fan-out. Further calls do nothing."""
        if self._fanout is not None:
            self._fanout.leave(self)

    def abandon(self) -> None:
        """Leave, and mark the queue as closed.

        Takes no lock, since the garbage collector may call it at any point.
        """
        self.closed = True
        self.leave()

    def close(self) -> None:
        """Abandon the queue, and make a waiting take() return, in any greenlet or thread."""
        self.abandon()
        self._wake_event.set()

    def skip(self, position: Position) -> None:
        """Drop all frames up to `position`."""
        with self._lock:
            self._after = position
            self._backlog.skip(position)

    def take(self, patience: float | None) -> Frame | None:
        """The next frame; a comment after `patience` seconds without one; None if it was closed.

        Raises `over`.
        """
        until = None if patience is None else time.monotonic() + patience
        while not self.closed:
            left = None if until is None else until - time.monotonic()
            with self._lock:
                if self._backlog:
                    frame = self._backlog.take()
                    self._after = frame.position
                    return frame
                if self.over is not None:
                    raise self.over
            if left is not None and left <= 0:
                return Frame(self._after, COMMENT)
            self._wake_event.wait(left)
        return None

    # the fan-out's side

    @property
    def holds(self) -> Position | None:
        return None if self._backlog else self._after

    def put(self, frame: Frame) -> None:
        with self._lock:
            if self.over is not None or (self._after is not None and frame.position <= self._after):
                return
            if not self._backlog.add(frame):
                self._backlog.clear()
                self.over = Lagged(
                    "the subscriber is too slow: its backlog is full; subscribe again after "
                    "its last_id, or give it a larger backlog"
                )
        if self.over is not None:
            self.leave()
        self._wake_event.set()

    def dismiss(self) -> None:
        with self._lock:
            self.over = self.over or BrokerError(
                "the broker has been closed, or its log was replaced or set back; "
                "subscribe again after the subscription's last_id"
            )
        self.leave()
        self._wake_event.set()
