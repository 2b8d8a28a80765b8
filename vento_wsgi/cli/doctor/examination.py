"""Examination: everything that is asked of a URL, one request after the other.

What a stream is like is seen by reading it for a while. The rest are experiments, which differ
from that in one thing: the same without compression, from an event on that is known, as a HEAD,
a part of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...exceptions import NotExamined
from .bursts import Lumps
from .items import Item, items, kind_of
from .proxies import hops
from .request import CONNECT, Answer, Arrival, Place, Visit

__all__ = ["Examination", "Ranges", "Reading", "examine"]

PATIENCE = 5.0
"""Seconds for an answer that a server has at once."""

LEAST = 3.0
"""Seconds for a connection, however short the reading is meant to be."""

MOST = 100_000
"""Items that are kept: enough to judge, and some 30 MB."""

PREFIX = 64 * 1024
"""Bytes of a file that are read: enough to compare its ranges with."""

AS_BROWSER = "Accept-Encoding: gzip, deflate"
PLAIN = "Accept-Encoding: identity"


@dataclass
class Reading:
    """What came in answer to one GET. Times are seconds of monotonic().

    answer: None if not even a head came. items: heartbeats among them. prefix: the first bytes.
    """

    seconds: float
    sent: float = 0.0
    head_at: float = 0.0
    end_at: float = 0.0
    ended: str = ""
    answer: Answer | None = None
    items: list[Item] = field(default_factory=list)
    prefix: bytes = b""
    size: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def lumps(self) -> Lumps | None:
        return Lumps.of(self.items, self.sent, self.head_at)

    @property
    def seen(self) -> dict[str, Any]:
        """How the request arrived, if the application tells: see pulse.py."""
        return next((item.seen for item in self.items if item.seen), {})


@dataclass(frozen=True)
class Ranges:
    """What a file answers to two Ranges, without compression.

    data: of the part that was wanted. beyond: the answer to a Range past the end.
    """

    whole: bytes
    total: int
    wanted: tuple[int, int]
    part: Answer | None
    data: bytes
    beyond: Answer | None


@dataclass
class Examination:
    """What was seen. resumed: "", or what Last-Event-ID brought.

    head: what a HEAD brought, with as many bytes after it. plain: a reading without compression.
    """

    place: Place
    kind: str
    reading: Reading
    head: tuple[Answer | None, int] | None = None
    head_took: float = 0.0
    plain: Reading | None = None
    resumed: str = ""
    after: str = ""
    ranges: Ranges | None = None

    @property
    def hops(self) -> list[str]:
        """Who shows, the nearest first."""
        told = [one for one in (self.reading, self.plain) if one and one.answer]
        return hops(told[0].answer, told[0].seen) if told and told[0].answer else []


@dataclass(frozen=True)
class _Asker:
    place: Place
    fields: Sequence[str]
    insecure: bool

    def read(
        self,
        seconds: float,
        *more: str,
        prefix: int = 0,
        enough: Any = lambda _item: False,
    ) -> Reading:
        """A GET, for at most so many seconds, or until an item is `enough`."""
        reading = Reading(seconds)

        def noted(arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
            for arrival in arrivals:
                reading.first_at = reading.first_at or arrival.at
                reading.last_at = arrival.at
                reading.size += len(arrival.data)
                if len(reading.prefix) < PREFIX:
                    reading.prefix += arrival.data
                yield arrival
                if reading.size >= prefix > 0:
                    return

        with self._visit("GET", seconds, *more) as visit:
            until = visit.sent + seconds
            reading.sent = visit.sent
            reading.answer = visit.head(until)
            reading.head_at = visit.head_at
            if reading.answer is not None and reading.answer.status < 300:
                if not prefix and kind_of(reading.answer) == "file":
                    prefix = PREFIX
                for item in items(noted(visit.arrivals(until)), reading.answer, until):
                    reading.items.append(item)
                    if enough(item) or len(reading.items) >= MOST:
                        break
            reading.ended, reading.end_at = visit.ended, visit.end_at or time.monotonic()
        return reading

    def head(self) -> tuple[Answer | None, int]:
        try:
            with self._visit("HEAD", PATIENCE, AS_BROWSER, "Connection: close") as visit:
                until = visit.sent + PATIENCE
                answer = visit.head(until)
                return answer, visit.rest(until) if answer else 0
        except NotExamined:
            return None, 0

    def _visit(self, method: str, seconds: float, *more: str) -> Visit:
        given = [name.partition(":")[0].lower() for name in self.fields]
        ours = ["Accept: text/event-stream, */*", "User-Agent: vento-wsgi-doctor", *more]
        fields = [line for line in ours if line.partition(":")[0].lower() not in given]
        return Visit(
            self.place,
            method,
            [*fields, *self.fields],
            insecure=self.insecure,
            patience=min(CONNECT, max(LEAST, seconds)),
        )


def examine(
    place: Place,
    *,
    seconds: float,
    fields: Sequence[str] = (),
    kind: str | None = None,
    insecure: bool = False,
) -> Examination:
    """Look at `place` for so many seconds. fields: further headers, as "Name: value".

    Each of the experiments that follow takes PATIENCE at most. Raises NotExamined where there is
    nothing to look at.
    """
    ask = _Asker(place, fields, insecure)
    cache = "Cache-Control: no-cache"
    reading = ask.read(seconds, AS_BROWSER, cache)
    answer = reading.answer
    if answer is None:
        found = Examination(place, kind or "stream", reading)
        found.plain = ask.read(min(seconds, PATIENCE), PLAIN, cache)
        return found
    _refuse(answer)
    found = Examination(place, kind or kind_of(answer), reading)
    asked = time.monotonic()
    found.head = ask.head()
    found.head_took = time.monotonic() - asked
    if found.kind == "file":
        if answer.get("Content-Encoding"):
            found.plain = ask.read(min(seconds, PATIENCE), PLAIN, cache)
        found.ranges = _ranges(ask, found.plain or reading)
        return found
    spoilt = reading.lumps or not reading.first_at
    if spoilt and answer.get("Content-Encoding"):
        took = (reading.last_at or reading.end_at) - reading.sent
        found.plain = ask.read(min(seconds, took + 0.5), PLAIN, cache)
    if not spoilt:
        _resume(ask, found)
    return found


def _refuse(answer: Answer) -> None:
    if 200 <= answer.status < 300 and answer.status != 204:
        return
    by = f" from {answer.get('Server')}" if answer.get("Server") else ""
    said = f"{answer.status} {answer.reason}{by}"
    if answer.status == 204:
        said += ": there is nothing to read; an EventSource does not come back after it"
    elif 300 <= answer.status < 400:
        said += f": give the URL that it leads to, {answer.get('Location')!r}"
    elif answer.status in (401, 403):
        said += ": give what it asks for with --header 'Authorization: …' or 'Cookie: …'"
    elif answer.status == 502:
        said += ": the proxy has no server behind it, or one that breaks off"
    elif answer.status == 504:
        said += ": the server behind the proxy was silent for longer than the proxy waits"
    raise NotExamined(said)


def _resume(ask: _Asker, found: Examination) -> None:
    """Come back with the last id but one: what must come then is the last."""
    ids = [item.id for item in found.reading.items if item.id and not item.beat]
    if not ids:
        return
    after, expected = (ids[-2], ids[-1]) if len(ids) > 1 else (ids[-1], None)
    again = ask.read(
        min(PATIENCE, found.reading.seconds),
        AS_BROWSER,
        f"Last-Event-ID: {after}",
        enough=lambda item: item.id and not item.beat,
    )
    first = next((item.id for item in again.items if item.id and not item.beat), None)
    found.after = after
    if again.answer is None or again.answer.status != 200:
        found.resumed = f"refused: {again.answer.status if again.answer else 'no answer'}"
    elif first is None:
        found.resumed = "nothing" if expected else ""
    elif first == expected or (expected is None and first != after):
        found.resumed = "honoured"
    else:
        found.resumed = f"again: {first}" if first in ids else f"later: {first}"


def _ranges(ask: _Asker, reading: Reading) -> Ranges | None:
    length = reading.answer.length if reading.answer else None
    if length is None or length < 2:
        return None
    first, last = 1, min(length - 1, 64)
    part = ask.read(PATIENCE, PLAIN, f"Range: bytes={first}-{last}", prefix=PREFIX)
    beyond = ask.read(PATIENCE, PLAIN, f"Range: bytes={length}-", prefix=1)
    return Ranges(reading.prefix, length, (first, last), part.answer, part.prefix, beyond.answer)
