"""Subscription: the events of some topics, from the log first and then live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import sse
from ..exceptions import BrokerError
from .frame import Frame, Slow, gap, mark
from .inbox import Inbox
from .log import Log, Position, Topics

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Subscription"]

PAGE = 200
"""Entries read of the log at a time: a fraction of a millisecond for other greenlets to wait."""

MARK = 14.0
"""Seconds of silence after which a subscriber is told where it stands: before any heartbeat."""


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
        self._inbox = Inbox(source, topics, backlog, slow)
        self._gap = False
        self.position: Position = None if after is None else source.position(after)
        if after is None:
            self.position = source.last()
        elif self.position is None or source.lost(self.position):
            self._gap = True
            self.position = source.first()
        self._open = fanout
        self._fanout: Fanout | None = None
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
        self._inbox.close()

    # for a browser

    def blocks(self) -> Iterator[bytes]:
        """The events as blocks, and marks in between. Ends where one is dismissed."""
        yield mark(self.log, self.position).block
        try:
            for frame in self._frames(MARK):
                yield frame.block
        except BrokerError as error:
            if error is not self._inbox.over:
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
            for frame in self.catch_up(self._inbox.join):
                if self._inbox.closed:
                    return
                yield frame
            self._inbox.skip(self.position)
            while (taken := self._inbox.take(patience)) is not None:
                self.position = taken.position
                yield taken
        except GeneratorExit:  # maybe where garbage is collected, and a lock is held already
            self._inbox.closed = True
            raise
        except BaseException:
            self.close()
            raise
