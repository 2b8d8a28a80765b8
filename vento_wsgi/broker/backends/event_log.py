"""EventLog: what a backend of the broker is, the events of all topics in one order.

There is one order for all topics, so that a single id is enough to go on from, whatever the
client has subscribed to. A position stands between two entries: "after" one of them. What is
kept is bounded by count and by age; older entries are dropped, and ``lost`` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any, NamedTuple, Protocol

__all__ = ["Entry", "EventLog", "Position", "Topics"]

Position = Any
"""Comparable with the others of its log, and nothing more: an int, or a tuple of them."""


class Entry(NamedTuple):
    """One published event. block: its lines in an event stream, without an id."""

    position: Position
    topic: str
    block: bytes


class Topics:
    """What a subscription asks for: these names, and every name below those of `below`.

    prefixes: how the names below begin, so each ends in a slash.
    """

    __slots__ = ("names", "prefixes")

    def __init__(self, names: Iterable[str], below: Iterable[str] = ()) -> None:
        self.names = frozenset(names)
        self.prefixes = tuple(sorted({f"{name}/" for name in below}))

    def __contains__(self, topic: str) -> bool:
        return topic in self.names or topic.startswith(self.prefixes)


class EventLog(Protocol):
    """The events of all topics in one order. Its methods may wait, under gevent cooperatively.

    All raise BrokerError, which says what to do, when the log cannot be read or written.
    """

    def append(self, topic: str, block: bytes) -> Position:
        """Publish. Once this returns, every process that follows the log will be given it."""

    def last(self) -> Position:
        """The position after the newest entry: everything later is still to come."""

    def first(self) -> Position:
        """The position before the oldest entry that is kept."""

    def lost(self, after: Position) -> bool:
        """Whether something later than `after` is no longer kept, or `after` is to come."""

    def read(self, after: Position, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        """The next entries of `topics`, in order; none if there are none yet.

        limit: how many, at most. size: bytes of their blocks; with the entry that reaches it
        the list ends, so that a single entry may be larger.
        """

    def follow(self, after: Position) -> Iterator[list[Entry]]:
        """Every entry of all topics later than `after`, as they come, once and in order.

        Waits for them; goes on by itself after a failure. Ends when the log is closed, and when
        it is another log now or was set back: `after` is not in its history any more.
        Entries that were dropped before they could be read are left out.
        """

    def id(self, position: Position) -> str:
        """A position as the id of an event: ASCII without spaces, at most 64 characters."""

    def position(self, id: str) -> Position | None:
        """The position of an id; None if it is none of this log's."""

    def close(self) -> None:
        """Free what is held, ending every ``follow``; further calls do nothing."""
