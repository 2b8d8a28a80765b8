"""Memory: a log for one process, which ends with the process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from math import inf

from ...exceptions import BrokerError
from .epoch import Epoch
from .event_log import Entry, Topics

__all__ = ["Memory"]

BATCH = 1000
"""Entries that follow() yields at once, at most."""

MAX_DROPPED = 1000
"""Expired entries that one append drops, at most: some 0.1 ms of work."""


class _Kept:
    """The entries of one process: numbers `first` + 1 to `last`, each with its monotonic() time."""

    def __init__(self, last: int) -> None:
        self.epoch = Epoch.draw()
        self.changed = threading.Condition()
        self.entries: dict[int, tuple[float, Entry]] = {}
        self.first = self.last = last

    def drop(self, count: int, expired: float) -> None:
        for _ in range(MAX_DROPPED):
            if self.first == self.last:
                return
            at, _entry = self.entries[self.first + 1]
            if self.last - self.first <= count and at > expired:
                return
            self.first += 1
            del self.entries[self.first]

    def between(self, after: int, until: int) -> Iterator[Entry]:
        for position in range(max(after, self.first) + 1, min(until, self.last) + 1):
            if (kept := self.entries.get(position)) is not None:  # it may have been dropped
                yield kept[1]


class Memory:
    """The last `count` entries of the last `age` seconds. A forked process starts an empty log."""

    def __init__(self, count: int, age: float) -> None:
        self._count = count
        self._age = age
        self._closed = False
        # By process, and made at its first use there. A lock made in the parent may be held, or,
        # if gevent has patched the child since, block all its greenlets.
        self._kept: dict[int, _Kept] = {}

    def _open(self) -> _Kept:
        if self._closed:
            raise BrokerError("the broker has been closed: make a new one")
        return self._here()

    def _here(self) -> _Kept:
        pid = os.getpid()
        kept = self._kept.get(pid)
        if kept is None:
            parents = max((kept.last for kept in self._kept.values()), default=0)
            kept = self._kept.setdefault(pid, _Kept(parents))
            self._kept = {pid: kept}
        return kept

    def append(self, topic: str, block: bytes) -> int:
        kept, now = self._open(), time.monotonic()
        with kept.changed:
            position = kept.last + 1
            kept.entries[position] = (now, Entry(position, topic, block))
            kept.last = position
            kept.drop(self._count, now - self._age)
            kept.changed.notify_all()
        return position

    def last(self) -> int:
        return self._open().last

    def first(self) -> int:
        return self._open().first

    def lost(self, after: int) -> bool:
        kept = self._open()
        with kept.changed:
            return not kept.first <= after <= kept.last

    def read(self, after: int, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        kept = self._open()
        found: list[Entry] = []
        entries = kept.between(after, kept.last)
        while len(found) < limit and size > 0 and (entry := next(entries, None)) is not None:
            if entry.topic in topics:
                found.append(entry)
                size -= len(entry.block)
        return found

    def follow(self, after: int) -> Iterator[list[Entry]]:
        while True:
            kept = self._here()
            with kept.changed:
                kept.changed.wait_for(lambda: self._closed or kept.last > after)  # noqa: B023
                if self._closed:
                    return
                after = max(after, kept.first)
                entries = list(kept.between(after, after + BATCH))
                after += len(entries)
            if entries:
                yield entries

    def id(self, position: int) -> str:
        return self._open().epoch.id(position)

    def position(self, id: str) -> int | None:
        return self._open().epoch.position(id)

    def close(self) -> None:
        self._closed = True
        kept = self._kept.get(os.getpid())
        if kept is not None:
            with kept.changed:
                kept.changed.notify_all()
            self._kept = {}
