"""Inbox: where the events of one subscriber wait until it takes them.

The fan-out puts them there, in its thread or greenlet, and the subscriber takes them in its own.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..exceptions import BrokerError
from .bell import bell
from .frame import Backlog, Frame, Slow, mark
from .log import Log, Position, Topics

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Inbox", "Lagged"]


class Lagged(BrokerError):
    """A subscriber took its events so slowly that its backlog is full.

    It can go on without loss: ``subscribe(*topics, after=subscription.last_id)``.
    """


class Inbox:
    """The frames of `topics` that are later than what was taken, up to `limit`; see Slow.

    over: why nothing more will come, if so. closed: whether nobody will take any more; to be
    set by anyone at any time, and the fan-out forgets it at the next frame.
    """

    def __init__(self, source: Log, topics: Topics, limit: int, slow: Slow) -> None:
        self.topics = topics
        self.over: BrokerError | None = None
        self.closed = False
        self._log = source
        self._backlog = Backlog(source, limit, slow)
        self._after: Position = None
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

    def skip(self, position: Position) -> None:
        """Forget what is not later than `position`."""
        with self._lock:
            self._after = position
            self._backlog.skip(position)

    def take(self, patience: float | None) -> Frame | None:
        """The next frame; None if it was closed, a mark after `patience` seconds without any.

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
                    assert self._fanout is not None
                    return mark(self._log, max(self._fanout.told, self._after))
            self._bell.wait(left)
        return None

    def close(self) -> None:
        """Have the one who takes stop, wherever it is."""
        self.closed = True
        self._bell.ring()
        self.leave()

    # the fan-out's side

    def put(self, frame: Frame) -> None:
        if self.closed:
            self.leave()
            return
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
