"""SubscriberQueue: where the events of one subscriber wait until it takes them.

The fan-out puts them there, in its thread or greenlet, and the subscriber takes them in its own.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..exceptions import BrokerError, Lagged
from ..sse import COMMENT
from .backends.event_log import EventLog, Position, Topics
from .frames import Backlog, Frame, Slow
from .wake_event import bell

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Lagged", "SubscriberQueue"]


class SubscriberQueue:
    """The frames of `topics` that are later than what was taken, up to `limit`; see Slow.

    over: why nothing more will come, if so. closed: whether nobody will take any more.
    """

    def __init__(self, source: EventLog, topics: Topics, limit: int, slow: Slow) -> None:
        self.topics = topics
        self.over: BrokerError | None = None
        self.closed = False
        self._backlog = Backlog(source, limit, slow)
        self._after: Position | None = None  # until it has caught up
        self._bell = bell()
        self._lock = threading.Lock()
        self._fanout: Fanout | None = None

    # the subscriber's side

    def join(self, fanout: Fanout) -> Position:
        """Be told what is published; returns the position after which it will be."""
        self._fanout = fanout
        position = fanout.join(self)
        if self.closed:  # while it caught up
            self.leave()
        return position

    def leave(self) -> None:
        """Be told no more; further calls do nothing."""
        if self._fanout is not None:
            self._fanout.leave(self)

    def abandon(self) -> None:
        """Leave, and take no more.

        Waits for no lock: this is called where a subscription is collected as garbage, too.
        """
        self.closed = True
        self.leave()

    def close(self) -> None:
        """Abandon it, and have a take() that waits return, whatever greenlet or thread is there."""
        self.abandon()
        self._bell.ring()

    def skip(self, position: Position) -> None:
        """Forget what is not later than `position`."""
        with self._lock:
            self._after = position
            self._backlog.skip(position)

    def take(self, patience: float | None) -> Frame | None:
        """The next frame; None if it was closed, a comment after `patience` seconds without any.

        Raises what is `over`.
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
            self._bell.wait(left)
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
        self._bell.ring()

    def dismiss(self) -> None:
        with self._lock:
            self.over = self.over or BrokerError(
                "the broker has been closed, or its log is another one now; "
                "subscribe again after the subscription's last_id"
            )
        self.leave()
        self._bell.ring()
