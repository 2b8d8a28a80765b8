"""Frame: a published event as the bytes that every subscriber is sent, made once."""

from __future__ import annotations

import re
from collections import deque
from time import monotonic
from typing import Literal, get_args

from ..sse import Event
from .log import Entry, Log, Position

__all__ = ["Backlog", "Frame", "Slow", "gap", "mark"]

Slow = Literal["disconnect", "drop_oldest", "latest"]
"""What becomes of a subscriber whose backlog is full.

disconnect: it is sent away, and comes back with the id of the last event that it has.
drop_oldest: it loses the oldest, and an event named "gap" stands in their place.
latest: it is sent the newest event of each name; the oldest, as above, if these are too many.
"""

_NAME = re.compile(rb"^event: ([^\n]*)$", re.MULTILINE)


class Frame:
    """An event at its position.

    block: with its id. chunk: the block as a chunk of HTTP/1.1. made: when, by monotonic().
    """

    __slots__ = ("block", "chunk", "made", "position")

    def __init__(self, position: Position, block: bytes) -> None:
        self.position = position
        self.made = monotonic()
        self.block = block
        self.chunk = b"%X\r\n%b\r\n" % (len(block), block)

    @classmethod
    def of(cls, entry: Entry, log: Log) -> Frame:
        return cls(entry.position, b"id: %b\n%b" % (log.id(entry.position).encode(), entry.block))

    @property
    def name(self) -> bytes:
        """The event's name as a browser dispatches it."""
        found = _NAME.search(self.block)
        return found[1] if found else b"message"


def mark(log: Log, position: Position) -> Frame:
    """Says where the subscriber stands, and dispatches nothing: an id without data."""
    return Frame(position, f"id: {log.id(position)}\n\n".encode())


def gap(log: Log, position: Position) -> Frame:
    """Says that events up to `position` are missing."""
    event = Event({"until": log.id(position)}, event="gap", id=log.id(position))
    return Frame(position, event.encode())


class Backlog:
    """The frames that a subscriber has not taken yet. limit: how many there may be."""

    __slots__ = ("_frames", "_limit", "_log", "_slow")

    def __init__(self, log: Log, limit: int, slow: Slow) -> None:
        if slow not in get_args(Slow):
            raise ValueError(f"slow is one of {', '.join(get_args(Slow))}, not {slow!r}")
        if limit < 1:
            raise ValueError(f"backlog is a number of events from 1 on, not {limit!r}")
        self._log = log
        self._limit = limit
        self._slow = slow
        self._frames: deque[Frame] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> int:
        """The bytes of all frames, without their framing."""
        return sum(len(frame.block) for frame in self._frames)

    def add(self, frame: Frame) -> bool:
        """Take in a frame; False if that is one too many, and the subscriber has to go."""
        frames = self._frames
        if self._slow == "latest":
            name = frame.name
            for old in tuple(frames):
                if old.name == name:
                    frames.remove(old)
        frames.append(frame)
        if len(frames) <= self._limit:
            return True
        if self._slow == "disconnect":
            return False
        dropped = frames.popleft()
        if len(frames) > 1:  # the gap takes a place as well
            dropped = frames.popleft()
        frames.appendleft(gap(self._log, dropped.position))
        return True

    def take(self) -> Frame:
        return self._frames.popleft()

    def skip(self, position: Position) -> None:
        """Forget what is not later than `position`."""
        while self._frames and self._frames[0].position <= position:
            self._frames.popleft()

    def clear(self) -> None:
        self._frames.clear()
