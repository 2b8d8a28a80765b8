"""Subscription: the events of some topics, from the log first and then live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .. import sse
from ..bodies.sources import EventBody
from ..exceptions import BrokerError
from ..streaming.pumps import cooperative
from .backends.event_log import EventLog, Position, Topics
from .body import SubscriptionChunks
from .frames import Frame, Slow, gap, mark
from .queue import SubscriberQueue

if TYPE_CHECKING:
    from .fanout import Fanout

__all__ = ["Subscription"]

PAGE, PAGE_BYTES = 200, 64 * 1024
"""Entries, and bytes of their blocks, that a subscriber reads of the log at a time.

It holds no more of them in memory, and others wait a fraction of a millisecond for their turn.
"""

SILENCE = 14.0
"""Seconds until a comment breaks the silence where no loop watches the client: a write that fails
is the only sign that it left. Less than the 15 after which any heartbeat is due."""


class Subscription(EventBody, Iterator[sse.Event]):
    """An iterator of every event of its topics, each once and in order; it waits for the next.

    As the items of ``ctx.sse`` it sends them to a browser. Each event has an id; ``last_id`` is
    the id to go on from: that of the newest event given, or a later one if no event of the topics
    lies between. ``close()`` ends it, also from another greenlet or thread. Where events are
    missing (they are no longer kept, are too many, or were dropped) there is one named "gap" in
    their place.

    Raises Lagged if it was taken too slowly, BrokerError if the log fails or was closed.
    """

    def __init__(
        self,
        source: EventLog,
        fanout: Callable[[], Fanout],
        topics: Topics,
        after: str | None,
        slow: Slow,
        backlog: int,
        replay: int | None,
    ) -> None:
        self.topics = topics
        self.log = source
        self.slow: Slow = slow
        self.backlog = backlog
        self._inbox = SubscriberQueue(source, topics, backlog, slow)
        self._replay = Replay(source, topics, after, replay)
        self._fanout = fanout
        self._iterator: Iterator[Frame] | None = None

    @property
    def position(self) -> Position:
        """What the subscriber has been given is not later, and what it will be given is."""
        return self._replay.position

    @property
    def last_id(self) -> str:
        return self.log.id(self.position)

    def __next__(self) -> sse.Event:
        if self._iterator is None:
            self._iterator = self._frames(None)
        while (event := next(self._iterator).event).data is None:
            pass  # a mark
        return event

    def close(self) -> None:
        """End the subscription; further calls do nothing."""
        self._inbox.close()

    # for a browser

    def as_chunks(self) -> SubscriptionChunks:
        """The body of an event stream, which some servers send without a greenlet."""
        return SubscriptionChunks(self)

    def blocks(self) -> Iterator[bytes]:
        """The events as blocks, and marks in between. Ends where the subscriber is dismissed."""
        try:
            for frame in self._frames(None if cooperative() else SILENCE):
                yield frame.block
        except BrokerError as error:
            if error is not self._inbox.over:
                raise
        finally:
            self.close()

    def catch_up(self, join: Callable[[Fanout], Position]) -> Iterator[Frame]:
        """See Replay.catch_up()."""
        return self._replay.catch_up(self._fanout(), join)

    def _frames(self, patience: float | None) -> Iterator[Frame]:
        return _frames(self._replay, self._inbox, self._fanout, patience)


class Replay:
    """Where a subscriber stands, and what it has to read of the log until it is told.

    position: what it has been given is not later, and what it will be given is.
    after, limit: as `after` and `replay` of Broker.subscribe().
    """

    __slots__ = ("_gap", "_held", "_limit", "_log", "_topics", "position")

    def __init__(self, log: EventLog, topics: Topics, after: str | None, limit: int | None) -> None:
        self._log = log
        self._topics = topics
        self._limit = None if after is None else limit
        self._held: Position | None = None if after is None else log.position(after)
        self._gap = after is not None and (self._held is None or log.lost(self._held))
        known = self._held is not None and not self._gap
        self.position: Position = self._held if known else log.last()

    def catch_up(self, fanout: Fanout, join: Callable[[Fanout], Position]) -> Iterator[Frame]:
        """What is in the log, and then, after `join` was called, what has come in the meantime.

        After a gap it goes on at the end of the log, since the client loads the state anew. When
        this has ended, the client holds the id of `position`: if no event gave it, a mark does.

        join: has the caller told of what comes; returns the position after which it will be.
        """
        log, left, end = self._log, self._limit, fanout.position
        joined = None
        if self._gap:
            self._gap = False
            yield self._go_on_after(self.position)
        if self.position >= end:
            joined = join(fanout)
        while joined is None or joined > self.position:
            entries = log.read(self.position, self._topics, PAGE, PAGE_BYTES)
            if log.lost(self.position):  # before it could be read
                yield self._go_on_after(log.last())
                continue
            for entry in entries:
                if left is not None and entry.position <= end:
                    left -= 1
                    if left < 0:
                        yield self._go_on_after(log.last())
                        break
                self.position = self._held = entry.position
                yield Frame.of(entry, log)
            else:
                if len(entries) == PAGE or sum(len(entry.block) for entry in entries) >= PAGE_BYTES:
                    continue  # there may be more
                if joined is None:
                    joined = join(fanout)
                else:
                    self.position = max(joined, self.position)
        if self._held != self.position:
            self._held = self.position
            yield mark(log, self.position)

    def _go_on_after(self, position: Position) -> Frame:
        """Leave out what is not later than `position`; the gap that says so."""
        self.position = self._held = position
        return gap(self._log, position)


def _frames(
    replay: Replay, inbox: SubscriberQueue, fanout: Callable[[], Fanout], patience: float | None
) -> Iterator[Frame]:
    """What a subscription gives; it leaves the broker wherever this ends.

    The subscription has this, and this does not have the subscription: so one that is dropped is
    collected at once, and not when Python next looks for cycles.

    patience: see SubscriberQueue.take().
    """
    try:
        for frame in replay.catch_up(fanout(), inbox.join):
            if inbox.closed:
                return
            yield frame
        inbox.skip(replay.position)
        while (taken := inbox.take(patience)) is not None:
            replay.position = taken.position
            yield taken
    finally:
        inbox.abandon()
