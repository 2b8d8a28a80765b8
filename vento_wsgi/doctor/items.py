"""Items: a body cut into what its server made one by one, each with the time of its arrival.

An event stream has events, text has lines, and of anything else what came at one time counts as
one. Where an item says when it was made, that is known as well: a number or a date under one of
the usual names in its JSON, as in ``{"time": 1767225600.25}``.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple

from ..exceptions import EventError, NotExamined
from ..sse import Event, decode
from .visit import Answer, Arrival

__all__ = ["Item", "items", "kind_of"]

NAMES = ("time", "timestamp", "ts", "now", "at", "created", "created_at", "date")
DAY = 86400.0
"""Seconds from now within which a number is taken for a time."""

STREAMS = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-seq",
    "multipart/x-mixed-replace",
)


class Item(NamedTuple):
    """at: seconds of monotonic(), equal for what came together. size: bytes, about.

    made: by the server's clock, if the item tells. beat: whether it carries nothing.
    """

    at: float
    size: int
    made: float | None = None
    id: str | None = None
    beat: bool = False
    data: dict[str, Any] | None = None


def kind_of(answer: Answer) -> str:
    """What a response is meant to be: "events", "stream" or "file"."""
    kind = _type(answer)
    if kind == "text/event-stream":
        return "events"
    if kind in STREAMS:
        return "stream"
    names = ("Content-Length", "Accept-Ranges", "Content-Disposition", "ETag", "Last-Modified")
    return "file" if any(answer.get(name) for name in names) else "stream"


def items(arrivals: Iterable[Arrival], answer: Answer) -> Iterator[Item]:
    """The items of a body, each as soon as it is there."""
    arrivals = _decoded(arrivals, answer.get("Content-Encoding").lower())
    kind = _type(answer)
    if kind == "text/event-stream":
        return _events(arrivals)
    if kind.startswith("text/") or "json" in kind:
        return _lines(arrivals)
    return (Item(arrival.at, len(arrival.data)) for arrival in arrivals)


def _type(answer: Answer) -> str:
    return answer.get("Content-Type").partition(";")[0].strip().lower()


def _decoded(arrivals: Iterable[Arrival], encoding: str) -> Iterator[Arrival]:
    decompress: Callable[[bytes], bytes]
    if encoding in ("gzip", "x-gzip"):
        decompress = zlib.decompressobj(31).decompress
    elif encoding == "deflate":
        decompress = zlib.decompressobj().decompress
    elif encoding in ("", "identity"):
        yield from arrivals
        return
    else:
        raise NotExamined(f"it is encoded as {encoding!r}, which nobody asked for")
    for arrival in arrivals:
        try:
            data = decompress(arrival.data)
        except zlib.error as error:
            raise NotExamined(f"its Content-Encoding is {encoding}, but {error}") from None
        if data:
            yield Arrival(arrival.at, data)


def _events(arrivals: Iterable[Arrival]) -> Iterator[Item]:
    at = 0.0

    def chunks() -> Iterator[bytes]:
        nonlocal at
        for arrival in arrivals:
            at = arrival.at
            yield arrival.data

    for event in _events_of(chunks()):
        size = len(event.encode())
        if event.data is None:
            yield Item(at, size, id=event.id, beat=True)
        else:
            data = _json(event.data)
            yield Item(at, size, _made(data), event.id, data=data)


def _events_of(chunks: Iterator[bytes]) -> Iterator[Event]:
    try:
        yield from decode(chunks)
    except EventError as error:
        raise NotExamined(f"it is no event stream that a browser would read: {error}") from None


def _lines(arrivals: Iterable[Arrival]) -> Iterator[Item]:
    rest = b""
    for arrival in arrivals:
        *lines, rest = (rest + arrival.data).split(b"\n")
        for line in lines:
            if line.strip():
                data = _json(line)
                yield Item(arrival.at, len(line) + 1, _made(data), data=data)
            else:
                yield Item(arrival.at, 1, beat=True)


def _json(text: str | bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        data = json.loads(text)
        if isinstance(data, dict):
            return data
    return None


def _made(data: dict[str, Any] | None) -> float | None:
    for name in NAMES if data else ():
        value = data.get(name) if data else None
        if isinstance(value, str):
            with suppress(ValueError):
                date = datetime.fromisoformat(value.replace("Z", "+00:00"))
                value = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            for seconds in (value, value / 1000):
                if abs(seconds - time.time()) < DAY:
                    return float(seconds)
    return None
