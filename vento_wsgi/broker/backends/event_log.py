"""EventLog: the protocol of the broker's backends, a log of the events of all topics.

The log has one order for all topics, so a single id is enough to resume, whatever topics a client
has subscribed to. A position is a place between two entries, directly after one of them. The log
keeps a limited number of entries for a limited time; older ones are dropped, and ``lost`` tells
whether that concerns a position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any, NamedTuple, Protocol

__all__ = ["Entry", "EventLog", "Position", "Topics"]

Position = Any
"""An int or a tuple of ints. Positions of one log can be compared, and nothing else."""


class Entry(NamedTuple):
    """One published event. block: the lines of its block in an event stream, without the id."""

    position: Position
    topic: str
    block: bytes


class Topics:
    """The topics of a subscription: `names`, and all names below those in `below`.

    prefixes: the names in `below`, each with a slash at its end.
    """

    __slots__ = ("names", "prefixes")

    def __init__(self, names: Iterable[str], below: Iterable[str] = ()) -> None:
        self.names = frozenset(names)
        self.prefixes = tuple(sorted({f"{name}/" for name in below}))

    def __contains__(self, topic: str) -> bool:
        return topic in self.names or topic.startswith(self.prefixes)


class EventLog(Protocol):
    """The events of all topics in one order. Methods may wait; under gevent they yield to the hub.

    All methods raise BrokerError if the log cannot be read or written.
    """

    def append(self, topic: str, block: bytes) -> Position:
        """Publish. Once this returns, every process that follows the log will get the entry."""

    def last(self) -> Position:
        """The position after the newest entry."""

    def first(self) -> Position:
        """The position before the oldest entry that is kept."""

    def lost(self, after: Position) -> bool:
        """Whether an entry after `after` was dropped, or `after` is no position of this log."""

    def read(self, after: Position, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        """The next entries of `topics`, in order; an empty list if there are none yet.

        limit: number of entries, at most. size: bytes of their blocks; the list ends with the
        entry that reaches it, so it can be larger by one entry.
        """

    def follow(self, after: Position) -> Iterator[list[Entry]]:
        """All entries of all topics after `after`, each once and in order; waits for new ones.

        Continues after a failure. Ends when the log is closed, and when `after` is no longer in
        its history, because the log was replaced or restored to an older state. Entries that were
        dropped before they could be read are missing.
        """

    def id(self, position: Position) -> str:
        """The id of an event for a position: ASCII without spaces, at most 64 characters."""

    def position(self, id: str) -> Position | None:
        """The position of an id; None if the id is not one of this log."""

    def close(self) -> None:
        """Free all resources and end every ``follow``. Further calls do nothing."""
