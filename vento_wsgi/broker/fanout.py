"""Fanout: the one reader of a log in a process, and those whom it tells.

However many subscribers there are, the log is followed once and each event is encoded once.
A subscriber joins after some position: what lies between the position that it has and that one
it reads from the log itself, and what comes later it is told. So nothing is missing at the
seam, and what it has from both sides it can tell by the position.

A subscriber to quiet topics would keep the id of an event that is no longer in the log, and be
answered by a gap when it comes back. So the fan-out notes how old positions are, and gives a mark,
an id without an event, to a subscriber whose last id has gone half the way out of the log.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import NamedTuple, Protocol

from ..exceptions import BrokerError
from ..logs import logger
from ..streaming.pumps import cooperative
from .backends.event_log import Entry, EventLog, Position, Topics
from .frames import Frame, gap, mark

__all__ = ["Fanout", "Sink"]

log = logger(__name__)

MANY, LONG = 100, 5.0
"""Entries at once, seconds between two: then some may have been dropped before they were read."""

TURN = 500
"""Subscribers told between two looks at the time: some milliseconds."""

SLICE = 0.005
"""Seconds that others wait for their turn while subscribers are told."""

OLD, STEP = 1 / 2, 1 / 8
"""Of what a log keeps: how old a position is whose holders get a mark, and how often one is noted.

So a mark comes before five eighths, and three eighths are left for the client to come back in.
"""


class Sink(Protocol):
    """What is told of events. Neither method waits; both may be called once more after leave()."""

    topics: Topics

    @property
    def holds(self) -> Position | None:
        """The position whose id the subscriber has; None while frames wait for it."""

    def put(self, frame: Frame) -> None: ...

    def dismiss(self) -> None:
        """The log has ended or is another one: who subscribes anew is told what is missing."""


class _Note(NamedTuple):
    """When a position was the newest one. number: how many entries had been told by then."""

    position: Position
    number: int
    time: float


class Fanout:
    """Tells the sinks of one process what is published.

    keep, keep_seconds: how many events the log keeps, and for how long.

    position: of the newest event that sinks have been, or are being, told of.
    told: of the newest event that every sink has been told of.
    over: whether its log has ended, and nobody is told any more.
    """

    def __init__(self, source: EventLog, keep: int, keep_seconds: float) -> None:
        self.log = source
        self.position = self.told = source.last()
        self.over = False
        self._names: dict[str, dict[Sink, None]] = {}
        self._prefixes: dict[str, dict[Sink, None]] = {}
        self._snapshots: dict[str, tuple[Sink, ...]] = {}
        self._lock = threading.Lock()  # of these three
        self._leaving: deque[Sink] = deque()
        self._old = max(1, keep * OLD)
        self._step = max(1, keep * STEP)
        self._keep_seconds = keep_seconds
        self._count = 0
        self._notes: deque[_Note] = deque()
        self._noted = _Note(self.position, 0, monotonic())
        self._turn = 0.0
        run = threading.Thread(target=self._run, name="vento_wsgi broker", daemon=True)
        run.start()

    @property
    def sinks(self) -> int:
        """How many are told."""
        with self._tables():
            return len(self._all())

    def join(self, sink: Sink) -> Position:
        """Have `sink` told of every event later than the position that is returned.

        Raises BrokerError if the log has been closed.
        """
        with self._tables():
            if self.over:
                raise BrokerError("the broker has been closed: subscribe again")
            for table, key in self._places(sink.topics):
                table.setdefault(key, {})[sink] = None
            self._snapshots.clear()
            return self.position

    def leave(self, sink: Sink) -> None:
        """Tell `sink` no more; further calls do nothing.

        Never waits, since it is called wherever garbage is collected: the lock may then be held
        by the very thread that calls. Whoever holds it takes the sink out before it goes on.
        """
        self._leaving.append(sink)
        self._remove_leaving()

    @contextmanager
    def _tables(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._remove_leaving()

    def _remove_leaving(self) -> None:
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                while self._leaving:
                    self._remove(self._leaving.popleft())
            finally:
                self._lock.release()

    def _remove(self, sink: Sink) -> None:
        for table, key in self._places(sink.topics):
            sinks = table.get(key)
            if sinks is not None:
                sinks.pop(sink, None)
                if not sinks:
                    del table[key]
        self._snapshots.clear()

    def _places(self, topics: Topics) -> list[tuple[dict[str, dict[Sink, None]], str]]:
        return [
            *((self._names, name) for name in topics.names),
            *((self._prefixes, prefix) for prefix in topics.prefixes),
        ]

    def _run(self) -> None:
        self._turn = monotonic()
        try:
            for entries in self.log.follow(self.position):
                self._take(entries)
        finally:
            self.over = True
            self._dismiss_all(self.position)

    def _take(self, entries: list[Entry]) -> None:
        before, self._turn = self._turn, monotonic()
        late = len(entries) >= MANY or self._turn - before > LONG
        try:
            if entries[0].position <= self.position:
                self._dismiss_all(self.log.first())
            elif late and self.log.lost(self.position):
                first = self.log.first()
                self._tell(gap(self.log, first), self._all)
                entries = [entry for entry in entries if entry.position > first]
        except Exception:  # they come back, and read the log themselves
            log.exception("whether events are missing is not known")
            self._dismiss_all(entries[-1].position)
            return
        if self._turn - self._noted.time >= self._keep_seconds * STEP:
            self._note(before)
        for entry in entries:
            self._tell(Frame.of(entry, self.log), partial(self._sinks, entry.topic))
            self._count += 1
            if self._count - self._noted.number >= self._step:
                self._note(self._turn)
                self._give_marks()
        self._give_marks()

    def _tell(self, frame: Frame, who: Callable[[], tuple[Sink, ...]]) -> None:
        with self._lock:  # _tables() takes as long as all else here if few are told
            self.position = frame.position
            sinks = who()
        if self._leaving:
            self._remove_leaving()
        for start in range(0, len(sinks), TURN):
            if monotonic() - self._turn > SLICE and cooperative():
                _give_turn()
                self._turn = monotonic()
            self._put(iter(sinks[start : start + TURN]), frame)
        self.told = frame.position

    def _note(self, time: float) -> None:
        """Note that the position of now was the newest one at `time`."""
        self._noted = _Note(self.position, self._count, time)
        self._notes.append(self._noted)

    def _give_marks(self) -> None:
        """Give a new id to those whose last one has gone half the way out of the log."""
        old: _Note | None = None
        while self._notes and self._is_old(self._notes[0]):
            old = self._notes.popleft()
        if old is not None:
            self._tell(mark(self.log, self.told), partial(self._holding, old.position))

    def _is_old(self, note: _Note) -> bool:
        return (
            self._count - note.number >= self._old
            or self._turn - note.time >= self._keep_seconds * OLD
        )

    def _holding(self, position: Position) -> tuple[Sink, ...]:
        """Those who hold an id of `position` or before it."""
        holding = ((sink, sink.holds) for sink in self._all())
        return tuple(sink for sink, held in holding if held is not None and held <= position)

    def _put(self, sinks: Iterator[Sink], frame: Frame) -> None:
        while (failed := self._put_until(sinks, frame)) is not None:
            self.leave(failed)
            failed.dismiss()  # the others are told all the same

    def _put_until(self, sinks: Iterator[Sink], frame: Frame) -> Sink | None:
        """Tell them; one that failed, if there is one, before those that are left."""
        sink: Sink | None = None
        try:
            for sink in sinks:
                sink.put(frame)
        except Exception:
            log.exception("a subscriber failed")
            return sink
        return None

    def _dismiss_all(self, position: Position) -> None:
        self._notes.clear()
        with self._tables():
            sinks = self._all()
            self._names.clear()
            self._prefixes.clear()
            self._snapshots.clear()
            self.position = self.told = position
        for sink in sinks:
            sink.dismiss()

    def _all(self) -> tuple[Sink, ...]:
        tables = (*self._names.values(), *self._prefixes.values())
        return tuple(dict.fromkeys(sink for table in tables for sink in table))

    def _sinks(self, topic: str) -> tuple[Sink, ...]:
        sinks = self._snapshots.get(topic)
        if sinks is None:
            found = dict(self._names.get(topic, {}))
            for prefix, more in self._prefixes.items():
                if topic.startswith(prefix):
                    found.update(more)
            sinks = tuple(found)
            if len(self._snapshots) >= 1000:  # topics with a subscriber may be many
                self._snapshots.clear()
            self._snapshots[topic] = sinks
        return sinks


def _give_turn() -> None:
    from gevent import get_hub

    hub = get_hub()
    hub.wait(hub.loop.timer(0))
