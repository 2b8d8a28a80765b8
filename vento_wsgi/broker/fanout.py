"""Fanout: the one reader of a log in a process, and those whom it tells.

However many subscribers there are, the log is followed once and each event is encoded once.
A subscriber joins after some position: what lies between the position that it has and that one
it reads from the log itself, and what comes later it is told. So nothing is missing at the
seam, and what it has from both sides it can tell by the position.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Protocol

from ..pump import cooperative
from .frame import Frame, gap
from .log import Entry, Log, Position, Topics

__all__ = ["Fanout", "Sink"]

log = logging.getLogger(__name__)

MANY, LONG = 100, 5.0
"""Entries at once, seconds between two: then some may have been dropped before they were read."""

TURN = 1000
"""Subscribers told between two turns of the loop: some milliseconds."""


class Sink(Protocol):
    """What is told of events. put() never waits, and may be called once more after leave()."""

    topics: Topics

    def put(self, frame: Frame) -> None: ...


class Fanout:
    """Tells the sinks of one process what is published.

    position: of the newest event that sinks have been, or are being, told of.
    told: of the newest event that every sink has been told of.
    """

    def __init__(self, source: Log) -> None:
        self.log = source
        self.position = self.told = source.last()
        self._names: dict[str, dict[Sink, None]] = {}
        self._prefixes: dict[str, dict[Sink, None]] = {}
        self._snapshots: dict[str, tuple[Sink, ...]] = {}
        self._lock = threading.Lock()
        run = threading.Thread(target=self._run, name="vento_wsgi broker", daemon=True)
        run.start()

    def join(self, sink: Sink) -> Position:
        """Have `sink` told of every event later than the position that is returned."""
        with self._lock:
            for table, key in self._places(sink.topics):
                table.setdefault(key, {})[sink] = None
            self._snapshots.clear()
            return self.position

    def leave(self, sink: Sink) -> None:
        """Further calls do nothing."""
        with self._lock:
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
        since = monotonic()
        for entries in self.log.follow(self.position):
            since, before = monotonic(), since
            slow = len(entries) >= MANY or since - before > LONG
            try:
                if slow and self.log.lost(self.position):
                    self._tell_all(gap(self.log, self.log.first()))
                for entry in entries:
                    self._tell(entry)
            except Exception:
                log.exception("telling subscribers failed")

    def _tell(self, entry: Entry) -> None:
        with self._lock:
            self.position = entry.position
            sinks = self._sinks(entry.topic)
        self._put(sinks, Frame.of(entry, self.log))
        self.told = entry.position

    def _tell_all(self, frame: Frame) -> None:
        with self._lock:
            self.position = frame.position
            tables = (*self._names.values(), *self._prefixes.values())
            sinks = tuple(dict.fromkeys(sink for table in tables for sink in table))
        self._put(sinks, frame)

    def _put(self, sinks: tuple[Sink, ...], frame: Frame) -> None:
        for start in range(0, len(sinks), TURN):
            if start and cooperative():
                _give_turn()
            for sink in sinks[start : start + TURN]:
                sink.put(frame)

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
