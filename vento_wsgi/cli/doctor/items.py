"""Items: the parts of a body that its server made one by one, with the time each arrived.

The items of an event stream are its events; those of text are its lines; of anything else the
bytes of each recv() are one item. An item of JSON may also say when it was made, by a number or a
date under one of the usual names, as in ``{"time": 1767225600.25}``.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple

from ...exceptions import EventError, NotExamined
from ...sse import MAX_EVENT, Event, decode
from .request import Arrival, ResponseHead

__all__ = ["Item", "items", "kind_of"]

NAMES = ("time", "timestamp", "ts", "now", "at", "created", "created_at", "date")
DAY = 86400.0
"""Seconds from now; a number within them is taken for the time when an item was made."""

PIECE = 64 * 1024
"""Bytes that are decompressed between two looks at the clock."""

TOLD = 1024 * 1024
"""Bytes of an item that is parsed as JSON, at most: parsed, it takes ten times its size."""

STREAMS = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-seq",
    "multipart/x-mixed-replace",
)


class Item(NamedTuple):
    """One event, line or piece of a body.

    at: when it arrived, in seconds of monotonic(), equal for items of one recv(). size: its
    approximate number of bytes. made: when it was made, by the server's clock, if it says so.
    beat: whether it is a heartbeat. seen: how the request reached the application, if the item
    says so (see vento_wsgi.doctor.pulse).
    """

    at: float
    size: int
    made: float | None = None
    id: str | None = None
    beat: bool = False
    seen: dict[str, Any] | None = None


def kind_of(response: ResponseHead) -> str:
    """What a response is meant to be: "events", "stream" or "file"."""
    kind = _type(response)
    if kind == "text/event-stream":
        return "events"
    if kind in STREAMS:
        return "stream"
    names = ("Content-Length", "Accept-Ranges", "Content-Disposition", "ETag", "Last-Modified")
    return "file" if any(response.get(name) for name in names) else "stream"


def items(
    arrivals: Iterable[Arrival], response: ResponseHead, until: float = math.inf
) -> Iterator[Item]:
    """The items of a body, each as soon as it has arrived. Stops decompressing at `until`.

    Raises NotExamined if the body is not what its headers say.
    """
    arrivals = _decoded(arrivals, response.get("Content-Encoding").lower(), until)
    kind = _type(response)
    if kind == "text/event-stream":
        return _events(arrivals)
    if kind.startswith("text/") or "json" in kind:
        return _lines(arrivals)
    return (Item(arrival.at, len(arrival.data)) for arrival in arrivals)


def _type(response: ResponseHead) -> str:
    return response.get("Content-Type").partition(";")[0].strip().lower()


def _decoded(arrivals: Iterable[Arrival], encoding: str, until: float) -> Iterator[Arrival]:
    """The body without its coding, at most PIECE bytes each: 64 KB may decompress to 64 MB."""
    if encoding in ("gzip", "x-gzip"):
        decompress = zlib.decompressobj(31)
    elif encoding == "deflate":
        decompress = zlib.decompressobj()
    elif encoding in ("", "identity"):
        yield from arrivals
        return
    else:
        raise NotExamined(f"it is encoded as {encoding!r}, which the request did not accept")
    for arrival in arrivals:
        rest = arrival.data
        while rest and time.monotonic() < until:
            try:
                data = decompress.decompress(rest, PIECE)
            except zlib.error as error:
                raise NotExamined(f"its Content-Encoding is {encoding}, but {error}") from None
            rest = decompress.unconsumed_tail
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
            yield Item(at, size, _made(data), event.id, seen=_seen(data))


def _events_of(chunks: Iterator[bytes]) -> Iterator[Event]:
    try:
        yield from decode(chunks)
    except EventError as error:
        raise NotExamined(f"a browser could not read this event stream: {error}") from None


def _lines(arrivals: Iterable[Arrival]) -> Iterator[Item]:
    rest: list[bytes] = []
    size = 0
    for arrival in arrivals:
        first, *others = arrival.data.split(b"\n")
        rest.append(first)
        size += len(first)
        if size > MAX_EVENT:
            raise NotExamined(f"a line is longer than {MAX_EVENT // 2**20} MB")
        for line in others:
            yield _line(arrival.at, b"".join(rest))
            rest, size = [line], len(line)


def _line(at: float, line: bytes) -> Item:
    if not line.strip():
        return Item(at, 1, beat=True)
    data = _json(line)
    return Item(at, len(line) + 1, _made(data), seen=_seen(data))


def _json(text: str | bytes) -> dict[str, Any] | None:
    if len(text) > TOLD:
        return None
    with suppress(ValueError, RecursionError):
        data = json.loads(text)
        if isinstance(data, dict):
            return data
    return None


def _seen(data: dict[str, Any] | None) -> dict[str, Any] | None:
    seen = data.get("seen") if data else None
    return seen if isinstance(seen, dict) else None


def _made(data: dict[str, Any] | None) -> float | None:
    for name in NAMES if data else ():
        value = data.get(name) if data else None
        # OverflowError: a number too large for a float, or a date outside the calendar
        with suppress(ValueError, OverflowError):
            if isinstance(value, str):
                date = datetime.fromisoformat(value.replace("Z", "+00:00"))
                value = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                for seconds in (value, value / 1000):
                    if abs(seconds - time.time()) < DAY:
                        return float(seconds)
    return None
