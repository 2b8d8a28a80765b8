"""Fanout: the one reader of a log in a process, and the subscribers that it tells.

However many subscribers there are, the log is followed once and each event is encoded once.
A subscriber joins after a position. Up to there it reads the log itself; later events it is told.
So nothing is missing in between, and it recognises by its position what it has from both sides.

Most subscribers listen to one topic and keep up with it. To them an event is a send() on a
non-blocking socket, and a comparison; see Batch.

A subscriber to quiet topics would keep the id of an event that is no longer in the log, and would
get a gap when it comes back. So the fan-out notes how old positions are, and gives a mark, an id
without an event, to a subscriber whose last id is halfway to being dropped from the log.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol

from ..exceptions import BrokerError
from ..logs import logger
from ..streaming.pumps import cooperative
from .backends.event_log import Entry, EventLog, Position, Topics
from .frames import Frame, gap, mark

__all__ = ["Batch", "Fanout", "Sink", "waits"]

log = logger(__name__)

MANY, LONG = 100, 5.0
"""After a batch this large or this late, entries may have been trimmed: check `log.lost()`."""

BATCH = 341
"""Sinks told between two looks at the time: 1 or 2 ms. A dict of this size has no free places."""

SLICE = 0.005
"""Seconds that others wait for their turn while subscribers are told."""

OLD, STEP = 1 / 2, 1 / 8
"""Parts of what the log keeps: the age at which a position needs a mark, and the time between two
notes. So a mark comes before five eighths, and the client has three eighths to come back.
"""


class Sink(Protocol):
    """A subscriber, as the fan-out sees it. No method may block.

    put() and dismiss() may be called once more after leave().
    """

    topics: Topics

    @property
    def holds(self) -> Position | None:
        """The position whose id the subscriber has; None while frames wait for it."""

    def put(self, frame: Frame) -> None:
        """Give it a frame. It ignores a frame that it has already."""

    def dismiss(self) -> None:
        """The log has ended or was replaced. A new subscription learns what is missing."""


class LiveSink(Sink, Protocol):
    """A sink that can be told by a bare send()."""

    def fell_behind(self, frame: Frame, sent: int) -> None:
        """Of the frame's chunk its send() took only `sent` bytes: it has to send the rest."""


class Batch:
    """At most BATCH sinks of one topic, which are told of a frame without a pause in between.

    A *live* sink keeps up with its topic: a frame is one send() on its socket, and nothing is
    noted for the sink itself. What it was sent is the difference between the batch's figures now
    and when it became live.

    sends: by sink, what sends it a chunk; waits for a sink that is not live.
    position, moved: of the newest frame, and when it was made. sent, pieces: bytes and frames.
    """

    __slots__ = ("moved", "pieces", "position", "sends", "sent")

    def __init__(self, position: Position) -> None:
        self.sends: dict[Any, Callable[[bytes], int]] = {}
        self.position = position
        self.moved = 0.0
        self.sent = self.pieces = 0

    def tell(self, frame: Frame) -> tuple[list[Sink], list[tuple[LiveSink, int]]]:
        """Send a frame to those that are live. Returns those that are not, and those that were
        live and did not take all, with the bytes that they took."""
        waiting: list[Sink] = []
        behind: list[tuple[LiveSink, int]] = []
        chunk = frame.chunk
        size = len(chunk)
        for sink, send in self.sends.items():
            try:
                if (sent := send(chunk)) == size:
                    continue
            except OSError:  # it is full; or broken, and then the next send says so
                sent = 0
            if sent < 0:
                waiting.append(sink)
            else:
                behind.append((sink, sent))
        self.position, self.moved = frame.position, frame.made
        self.sent += len(frame.block)
        self.pieces += 1
        return waiting, behind


def waits(chunk: bytes) -> int:  # noqa: ARG001
    """In place of the send() of a sink that is not live."""
    return -1


class _Place:
    """The sinks of a name, or of all names below one.

    batches: of the sinks that are in this place alone. shared: those that are in others as well.
    """

    __slots__ = ("batches", "shared")

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.shared: dict[Sink, None] = {}

    def __bool__(self) -> bool:
        return bool(self.batches or self.shared)

    def __iter__(self) -> Iterator[Sink]:
        for batch in self.batches:
            yield from batch.sends
        yield from self.shared

    def add(self, sink: Sink, position: Position) -> None:
        batch = next((batch for batch in self.batches if len(batch.sends) < BATCH), None)
        if batch is None:
            batch = Batch(position)
            self.batches.append(batch)
        batch.sends[sink] = waits

    def batch_of(self, sink: Sink) -> Batch | None:
        return next((batch for batch in self.batches if sink in batch.sends), None)

    def remove(self, sink: Sink) -> None:
        self.shared.pop(sink, None)
        batch = self.batch_of(sink)
        if batch is not None:
            del batch.sends[sink]
            if not batch.sends:
                self.batches.remove(batch)


class _Note(NamedTuple):
    """When a position was the newest one. number: how many entries had come by then."""

    position: Position
    number: int
    time: float


class Fanout:
    """Tells the sinks of one process what is published.

    keep, keep_seconds: how many events the log keeps, and for how long.

    position: of the newest event that sinks have been, or are being, told of.
    told: of the newest event that every sink has been told of.
    over: whether the log has ended, so that no more events will come.
    """

    def __init__(self, source: EventLog, keep: int, keep_seconds: float) -> None:
        self.log = source
        self.position = self.told = source.last()
        self.over = False
        self._names: dict[str, _Place] = {}
        self._prefixes: dict[str, _Place] = {}
        self._lock = threading.Lock()  # for both, and for the batches in them
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
        """How many sinks there are."""
        with self._tables():
            return len(self._all())

    def join(self, sink: Sink) -> Position:
        """Have `sink` told of every event later than the position that is returned.

        Raises BrokerError if the log has been closed.
        """
        with self._tables():
            if self.over:
                raise BrokerError("the broker has been closed: subscribe again")
            keys = self._keys(sink.topics)
            for table, key in keys:
                place = table.setdefault(key, _Place())
                if len(keys) == 1:
                    place.add(sink, self.position)
                else:
                    place.shared[sink] = None
            return self.position

    def keeps_up(self, sink: LiveSink, send: Callable[[bytes], int]) -> Batch | None:
        """Make `sink` live. Called within its put(), when it has sent all that it was given.

        send: of its socket; does not block. Returns the batch that it is in; None if it has left,
        or listens to several topics, and goes on with put().
        """
        keys = self._keys(sink.topics)
        if len(keys) != 1:
            return None
        ((table, key),) = keys
        with self._tables():
            place = table.get(key)
            batch = None if place is None else place.batch_of(sink)
            if batch is not None:
                batch.sends[sink] = send
        return batch

    def leave(self, sink: Sink) -> None:
        """Tell `sink` no more; further calls do nothing.

        Never waits: the garbage collector may call it in a thread that holds the lock. Whoever
        holds the lock removes the sink when it releases the lock.
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
        for table, key in self._keys(sink.topics):
            place = table.get(key)
            if place is not None:
                place.remove(sink)
                if not place:
                    del table[key]

    def _keys(self, topics: Topics) -> list[tuple[dict[str, _Place], str]]:
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
                self._tell_some(gap(self.log, first), self._all)
                entries = [entry for entry in entries if entry.position > first]
        except Exception:  # the clients come back, and then the log is read for them
            log.exception("whether events are missing is not known")
            self._dismiss_all(entries[-1].position)
            return
        if self._turn - self._noted.time >= self._keep_seconds * STEP:
            self._note(before)
        for entry in entries:
            self._tell_topic(Frame.of(entry, self.log), entry.topic)
            self._count += 1
            if self._count - self._noted.number >= self._step:
                self._note(self._turn)
                self._give_marks()
        self._give_marks()

    def _tell_topic(self, frame: Frame, topic: str) -> None:
        with self._lock:  # _tables() takes as long as all else here if few are told
            self.position = frame.position
            places = self._places(topic)
            batches = [batch for place in places for batch in place.batches]
            shared = dict.fromkeys(sink for place in places for sink in place.shared)
        if self._leaving:
            self._remove_leaving()
        for batch in batches:
            self._pause()
            with self._lock:
                waiting, behind = batch.tell(frame)
            if self._leaving:
                self._remove_leaving()
            self._send_rest(behind, frame)  # first: nothing else may be sent to them before
            self._put(waiting, frame)
        if shared:
            self._put_in_turns(tuple(shared), frame)
        self.told = frame.position

    def _tell_some(self, frame: Frame, who: Callable[[], tuple[Sink, ...]]) -> None:
        with self._tables():
            self.position = frame.position
            sinks = who()
        self._put_in_turns(sinks, frame)
        self.told = frame.position

    def _put_in_turns(self, sinks: tuple[Sink, ...], frame: Frame) -> None:
        for start in range(0, len(sinks), BATCH):
            self._pause()
            self._put(sinks[start : start + BATCH], frame)

    def _send_rest(self, behind: Iterable[tuple[LiveSink, int]], frame: Frame) -> None:
        for sink, sent in behind:
            try:
                sink.fell_behind(frame, sent)
            except Exception:  # noqa: PERF203 - the others are told all the same
                self._give_up(sink)

    def _put(self, sinks: Iterable[Sink], frame: Frame) -> None:
        for sink in sinks:
            try:
                sink.put(frame)
            except Exception:  # noqa: PERF203 - the others are told all the same
                self._give_up(sink)

    def _give_up(self, sink: Sink) -> None:
        log.exception("a subscriber failed")
        self.leave(sink)
        sink.dismiss()

    def _pause(self) -> None:
        """Let others have their turn, if this one has lasted for long."""
        if monotonic() - self._turn > SLICE and cooperative():
            _give_turn()
            self._turn = monotonic()

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
            self._tell_some(mark(self.log, self.told), partial(self._holding, old.position))

    def _is_old(self, note: _Note) -> bool:
        return (
            self._count - note.number >= self._old
            or self._turn - note.time >= self._keep_seconds * OLD
        )

    def _holding(self, position: Position) -> tuple[Sink, ...]:
        """Those who hold an id of `position` or before it."""
        holding = ((sink, sink.holds) for sink in self._all())
        return tuple(sink for sink, held in holding if held is not None and held <= position)

    def _dismiss_all(self, position: Position) -> None:
        self._notes.clear()
        with self._tables():
            sinks = self._all()
            self._names.clear()
            self._prefixes.clear()
            self.position = self.told = position
        for sink in sinks:
            sink.dismiss()

    def _all(self) -> tuple[Sink, ...]:
        places = (*self._names.values(), *self._prefixes.values())
        return tuple(dict.fromkeys(sink for place in places for sink in place))

    def _places(self, topic: str) -> list[_Place]:
        """The places whose sinks listen to `topic`."""
        found = [self._names.get(topic)]
        if self._prefixes:
            ends = (end.end() for end in re.finditer("/", topic))
            found += [self._prefixes.get(topic[:end]) for end in ends]
        return [place for place in found if place is not None]


def _give_turn() -> None:
    from gevent import get_hub

    hub = get_hub()
    hub.wait(hub.loop.timer(0))
