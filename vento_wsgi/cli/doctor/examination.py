"""Examination: the requests that the doctor makes of one URL, one after the other.

The first is a GET, read for a while. The others are experiments, each of which changes one thing:
no compression, a Last-Event-ID, the method HEAD, a Range.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...exceptions import NotExamined
from .bursts import Bursts
from .items import Item, items, kind_of
from .proxies import proxies
from .request import CONNECT, Arrival, Request, ResponseHead, Target

__all__ = ["Examination", "Ranges", "Reading", "examine"]

PATIENCE = 5.0
"""Seconds that an experiment may take."""

LEAST = 3.0
"""Seconds for a connection, even if the time to read is shorter."""

MOST = 100_000
"""Items that are kept, at most; they take some 30 MB."""

PREFIX = 64 * 1024
"""Bytes of a file that are read, to compare its ranges with."""

AS_BROWSER = "Accept-Encoding: gzip, deflate"
PLAIN = "Accept-Encoding: identity"


@dataclass
class Reading:
    """What one GET brought. Times are seconds of monotonic(), 0 if the moment never came.

    response: None if no head came. ended: as in Request. items: with heartbeats. prefix: the first
    bytes of the body, up to about PREFIX. size: bytes of the body.
    """

    seconds: float
    sent: float = 0.0
    head_at: float = 0.0
    end_at: float = 0.0
    ended: str = ""
    response: ResponseHead | None = None
    items: list[Item] = field(default_factory=list)
    prefix: bytes = b""
    size: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def bursts(self) -> Bursts | None:
        return Bursts.of(self.items, self.sent, self.head_at)

    @property
    def seen(self) -> dict[str, Any]:
        """How the request reached the application, if it uses vento_wsgi.doctor.pulse."""
        return next((item.seen for item in self.items if item.seen), {})


@dataclass(frozen=True)
class Ranges:
    """What two Range requests for a file brought, without compression.

    whole: the first bytes of the file. wanted: the first and last byte asked for, of `total`.
    part, data: the response to that. beyond: the response to a Range past the end.
    """

    whole: bytes
    total: int
    wanted: tuple[int, int]
    part: ResponseHead | None
    data: bytes
    beyond: ResponseHead | None


@dataclass
class Examination:
    """What all requests brought.

    head: the response to a HEAD, and the number of bytes after it. plain: a reading without
    compression. resumed: what the Last-Event-ID `after` brought: "honoured", "nothing",
    "again: ID", "later: ID", "refused: STATUS", or "" if that was not tried or is not known.
    """

    target: Target
    kind: str
    reading: Reading
    head: tuple[ResponseHead | None, int] | None = None
    head_took: float = 0.0
    plain: Reading | None = None
    resumed: str = ""
    after: str = ""
    ranges: Ranges | None = None

    @property
    def proxies(self) -> list[str]:
        """The proxies and the server that show in the response, the nearest first."""
        told = [one for one in (self.reading, self.plain) if one and one.response]
        return proxies(told[0].response, told[0].seen) if told and told[0].response else []


@dataclass(frozen=True)
class _Client:
    target: Target
    fields: Sequence[str]
    insecure: bool

    def read(
        self,
        seconds: float,
        *more: str,
        prefix: int = 0,
        enough: Any = lambda _item: False,
    ) -> Reading:
        """Send a GET and read for `seconds`, or until `prefix` bytes or an item that is `enough`.

        more: further headers.
        """
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

        with self._request("GET", seconds, *more) as request:
            until = request.sent + seconds
            reading.sent = request.sent
            reading.response = request.head(until)
            reading.head_at = request.head_at
            if reading.response is not None and reading.response.status < 300:
                if not prefix and kind_of(reading.response) == "file":
                    prefix = PREFIX
                for item in items(noted(request.arrivals(until)), reading.response, until):
                    reading.items.append(item)
                    if enough(item) or len(reading.items) >= MOST:
                        break
            reading.ended, reading.end_at = request.ended, request.end_at or time.monotonic()
        return reading

    def head(self) -> tuple[ResponseHead | None, int]:
        try:
            with self._request("HEAD", PATIENCE, AS_BROWSER, "Connection: close") as request:
                until = request.sent + PATIENCE
                response = request.head(until)
                return response, request.rest(until) if response else 0
        except NotExamined:
            return None, 0

    def _request(self, method: str, seconds: float, *more: str) -> Request:
        given = [name.partition(":")[0].lower() for name in self.fields]
        ours = ["Accept: text/event-stream, */*", "User-Agent: vento-wsgi-doctor", *more]
        fields = [line for line in ours if line.partition(":")[0].lower() not in given]
        return Request(
            self.target,
            method,
            [*fields, *self.fields],
            insecure=self.insecure,
            patience=min(CONNECT, max(LEAST, seconds)),
        )


def examine(
    target: Target,
    *,
    seconds: float,
    fields: Sequence[str] = (),
    kind: str | None = None,
    insecure: bool = False,
) -> Examination:
    """Read `target` for so many seconds, then make the experiments, of PATIENCE each at most.

    fields: further headers, as "Name: value". Raises NotExamined if there is nothing to examine.
    """
    client = _Client(target, fields, insecure)
    cache = "Cache-Control: no-cache"
    reading = client.read(seconds, AS_BROWSER, cache)
    response = reading.response
    if response is None:
        found = Examination(target, kind or "stream", reading)
        found.plain = client.read(min(seconds, PATIENCE), PLAIN, cache)
        return found
    _refuse(response)
    found = Examination(target, kind or kind_of(response), reading)
    asked = time.monotonic()
    found.head = client.head()
    found.head_took = time.monotonic() - asked
    if found.kind == "file":
        if response.get("Content-Encoding"):
            found.plain = client.read(min(seconds, PATIENCE), PLAIN, cache)
        found.ranges = _ranges(client, found.plain or reading)
        return found
    spoilt = reading.bursts or not reading.first_at
    if spoilt and response.get("Content-Encoding"):
        took = (reading.last_at or reading.end_at) - reading.sent
        found.plain = client.read(min(seconds, took + 0.5), PLAIN, cache)
    if not spoilt:
        _resume(client, found)
    return found


def _refuse(response: ResponseHead) -> None:
    if 200 <= response.status < 300 and response.status != 204:
        return
    by = f" from {response.get('Server')}" if response.get("Server") else ""
    said = f"{response.status} {response.reason}{by}"
    if response.status == 204:
        said += ": there is nothing to read, and an EventSource does not reconnect after a 204"
    elif 300 <= response.status < 400:
        said += f": give the URL that it leads to, {response.get('Location')!r}"
    elif response.status in (401, 403):
        said += ": give credentials with --header 'Authorization: …' or 'Cookie: …'"
    elif response.status == 502:
        said += ": the proxy has no server behind it, or that server broke off"
    elif response.status == 504:
        said += ": the server behind the proxy was silent for longer than the proxy waits"
    raise NotExamined(said)


def _resume(client: _Client, found: Examination) -> None:
    """Reconnect with the last id but one: the next event must be the last one."""
    ids = [item.id for item in found.reading.items if item.id and not item.beat]
    if not ids:
        return
    after, expected = (ids[-2], ids[-1]) if len(ids) > 1 else (ids[-1], None)
    again = client.read(
        min(PATIENCE, found.reading.seconds),
        AS_BROWSER,
        f"Last-Event-ID: {after}",
        enough=lambda item: item.id and not item.beat,
    )
    first = next((item.id for item in again.items if item.id and not item.beat), None)
    found.after = after
    if again.response is None or again.response.status != 200:
        found.resumed = f"refused: {again.response.status if again.response else 'none'}"
    elif first is None:
        found.resumed = "nothing" if expected else ""
    elif first == expected or (expected is None and first != after):
        found.resumed = "honoured"
    else:
        found.resumed = f"again: {first}" if first in ids else f"later: {first}"


def _ranges(client: _Client, reading: Reading) -> Ranges | None:
    length = reading.response.length if reading.response else None
    if length is None or length < 2:
        return None
    first, last = 1, min(length - 1, 64)
    part = client.read(PATIENCE, PLAIN, f"Range: bytes={first}-{last}", prefix=PREFIX)
    beyond = client.read(PATIENCE, PLAIN, f"Range: bytes={length}-", prefix=1)
    return Ranges(
        reading.prefix, length, (first, last), part.response, part.prefix, beyond.response
    )
