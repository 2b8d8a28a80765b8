"""Frame: a published event as the bytes that every subscriber is sent, made once."""

from __future__ import annotations

import re
from collections import deque
from time import monotonic
from typing import Literal, get_args

from ..sse import Event, decode
from .backends.event_log import Entry, EventLog, Position

__all__ = ["Backlog", "Frame", "Mark", "Slow", "chunk", "gap", "mark"]

Slow = Literal["disconnect", "drop_oldest", "latest"]
"""What becomes of a subscriber whose backlog is full.

disconnect: it is sent away, and comes back with the id of the last event that it has.
drop_oldest: it loses the oldest, and an event named "gap" stands in their place.
latest: of each name it keeps the newest alone; if these are too many it loses the oldest, as above.
"""

_NAME = re.compile(rb"^event: ([^\n]*)$", re.MULTILINE)


def chunk(data: bytes) -> bytes:
    """Data as a chunk of HTTP/1.1 (RFC 9112, section 7.1)."""
    return b"%X\r\n%b\r\n" % (len(data), data)


class Frame:
    """An event at its position.

    block: with its id. chunk: the block as a chunk of HTTP/1.1. made: when, by monotonic().
    """

    __slots__ = ("_event", "_name", "block", "chunk", "made", "position")

    def __init__(self, position: Position, block: bytes) -> None:
        self.position = position
        self.made = monotonic()
        self.block = block
        self._event: Event | None = None
        self._name: bytes | None = None
        self.chunk = chunk(block)

    @classmethod
    def of(cls, entry: Entry, log: EventLog) -> Frame:
        return cls(entry.position, b"id: %b\n%b" % (log.id(entry.position).encode(), entry.block))

    @property
    def event(self) -> Event:
        """The event itself, for those who iterate: read once for all of them."""
        if self._event is None:
            (self._event,) = decode([self.block])
        return self._event

    @property
    def name(self) -> bytes:
        """The event's name as a browser dispatches it."""
        if self._name is None:  # asked once for each subscriber that is too slow
            found = _NAME.search(self.block)
            self._name = found[1] if found else b"message"
        return self._name


class Mark(Frame):
    """Says where the subscriber stands, and dispatches nothing: an id without data."""

    __slots__ = ()


def mark(log: EventLog, position: Position) -> Mark:
    """A mark for a subscriber that has been given all that it wants up to `position`."""
    return Mark(position, f"id: {log.id(position)}\n\n".encode())


def gap(log: EventLog, position: Position) -> Frame:
    """Says that events up to `position` are missing."""
    event = Event({"until": log.id(position)}, event="gap", id=log.id(position))
    return Frame(position, event.encode())


class Backlog:
    """The frames that a subscriber has not taken yet. limit: how many there may be.

    A gap in front of them is made when it is taken, and counts for none.
    Raises ValueError on what is no way to be slow, or no limit.
    """

    __slots__ = ("_frames", "_limit", "_log", "_missing", "_slow")

    def __init__(self, log: EventLog, limit: int, slow: Slow) -> None:
        if slow not in get_args(Slow):
            raise ValueError(f"slow is one of {', '.join(get_args(Slow))}, not {slow!r}")
        if type(limit) is not int or limit < 1:
            raise ValueError(f"backlog is a number of events from 1 on, not {limit!r}")
        self._log = log
        self._limit = limit
        self._slow = slow
        self._frames: deque[Frame] = deque()
        self._missing: Position | None = None

    def __len__(self) -> int:
        return len(self._frames) + (self._missing is not None)

    @property
    def size(self) -> int:
        """The bytes of all frames, without their framing."""
        return sum(len(frame.block) for frame in self._frames)

    def add(self, frame: Frame) -> bool:
        """Take in a frame; False if that is one too many, and the subscriber has to go."""
        if self._frames and isinstance(self._frames[-1], Mark):
            self._frames.pop()  # the id of this frame takes its place
        self._frames.append(frame)
        if len(self._frames) <= self._limit:
            return True
        if self._slow == "disconnect":
            return False
        if self._slow == "latest":
            newest: dict[bytes, Frame] = {}
            for each in self._frames:
                newest.pop(each.name, None)  # in the order of the newest, not of the first
                newest[each.name] = each
            self._frames = deque(newest.values())
        if len(self._frames) > self._limit:
            self._missing = self._frames.popleft().position
        return True

    def take(self) -> Frame:
        if self._missing is not None:
            missing, self._missing = self._missing, None
            return gap(self._log, missing)
        return self._frames.popleft()

    def skip(self, position: Position) -> None:
        """Forget what is not later than `position`."""
        if self._missing is not None and self._missing <= position:
            self._missing = None
        while self._frames and self._frames[0].position <= position:
            self._frames.popleft()

    def clear(self) -> None:
        self._frames.clear()
        self._missing = None
