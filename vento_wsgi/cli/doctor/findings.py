"""Findings: what is wrong with a stream or file. Notes: facts about it that are no fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from .bursts import HELD, Bursts
from .examination import Examination, Reading
from .fixes import fixes
from .request import ResponseHead

__all__ = ["Finding", "findings", "heartbeat", "notes"]

LATE = 3.0
"""Seconds to the first byte; more is a finding."""

QUIET = 30.0
"""Seconds of silence after which the strictest of the common proxies cut a connection."""

CORKED = 0.15
"""Seconds of delay that show TCP corking: Linux holds a packet 0.2 s if told that more follows."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    code: does not change between versions. text: what was seen. fixes: what to change, by the name
    of the proxy or server.
    """

    code: str
    text: str
    fixes: dict[str, str]


def findings(found: Examination) -> list[Finding]:
    """The faults, the worst first."""
    response = found.reading.response
    if response is None:
        said = [_nothing(found)]
    else:
        said = [*_flow(found, response), *_response(found, response), *_head(found, response)]
        said += _file(found) if found.kind == "file" else _resumed(found)
    return [Finding(code, text, fixes(code, found.proxies)) for code, text in said]


def _nothing(found: Examination) -> tuple[str, str]:
    text = f"no response head came within {found.reading.seconds:g} s"
    if found.plain is not None and found.plain.first_at and not found.plain.bursts:
        return "compression", f"{text}; without compression the stream starts at once"
    return "silent", text


def _flow(found: Examination, response: ResponseHead) -> Iterator[tuple[str, str]]:
    reading, bursts = found.reading, found.reading.bursts
    if found.kind == "file":
        pass
    elif bursts or not reading.first_at:
        encoding, plain = response.get("Content-Encoding"), found.plain
        if plain is not None and plain.first_at and not plain.bursts:
            yield "compression", f"{encoding} holds items back; without it they come one by one"
        elif bursts:
            yield "buffering", _bursts(bursts, found.kind)
        elif reading.ended != "whole":
            yield "silent", f"the head came, but nothing more within {_took(reading):.1f} s"
    elif reading.first_at - reading.sent > LATE:
        yield "late", f"the first byte came after {reading.first_at - reading.sent:.1f} s"
    if reading.ended == "cut":
        yield _cut(reading)
    beat = heartbeat(reading)
    silence = _silence(reading)
    if found.kind != "file" and silence > QUIET and beat is None and reading.ended != "cut":
        yield "quiet", f"silent for {silence:.1f} s without a heartbeat: proxies cut such streams"


def _bursts(bursts: Bursts, kind: str) -> str:
    what = "events" if kind == "events" else "items"
    text = f"{what} come in bursts, up to {bursts.largest} at once ({bursts.size:,} bytes)"
    if bursts.sure:
        return f"{text}, held back on the way for up to {bursts.held:.2f} s"
    return (
        f"{text}, after silences of up to {bursts.held:.2f} s: held back on the way, or made "
        f'together by the application; a "time" in the JSON of the {what} would show which'
    )


def _cut(reading: Reading) -> tuple[str, str]:
    silence = reading.end_at - (reading.last_at or reading.head_at)
    if silence > HELD and silence >= _silence(reading):
        return "cut", f"cut after {silence:.1f} s of silence: a proxy's timeout, most likely"
    return "broken", f"the stream broke off after {_took(reading):.1f} s, without its end"


def _response(found: Examination, response: ResponseHead) -> Iterator[tuple[str, str]]:
    seen = found.reading.seen
    via = [proxy.split()[0] for proxy in response.get("Via").split(",") if proxy.strip()]
    if response.version == "1.0":
        text = "the response is HTTP/1.0: without chunks an end looks the same as a failure"
        yield "downgrade", text
    elif seen.get("protocol") == "HTTP/1.0" or "1.0" in via:
        text = "a proxy speaks HTTP/1.0 to its server: a failure there looks like a normal end"
        yield "downgrade", text
    if seen and not seen.get("threads"):
        yield "threads", "the server's worker serves one stream at a time"
    if found.kind != "file":
        if length := response.get("Content-Length"):
            yield "length", f"a Content-Length ({length}) on a stream: the whole body was collected"
        hit = [n for n in ("X-Cache", "CF-Cache-Status") if "hit" in response.get(n).lower()]
        if hit or response.get("Age") not in ("", "0"):
            sign = hit[0] if hit else "Age"
            yield "cached", f"the response comes from a cache ({sign}: {response.get(sign)})"


def _head(found: Examination, response: ResponseHead) -> Iterator[tuple[str, str]]:
    head, more = found.head or (None, 0)
    if head is None:
        yield "head", "a HEAD gets no response"
    elif more:
        yield "head", f"a HEAD is answered with a body ({more:,} bytes)"
    elif head.status in (405, 501):
        return  # a clean refusal
    elif head.status != response.status:
        yield "head", f"a HEAD is answered with {head.status}, a GET with {response.status}"
    elif head.get("Content-Encoding") == response.get("Content-Encoding"):
        lengths = head.get("Content-Length"), response.get("Content-Length")
        if all(lengths) and lengths[0] != lengths[1]:
            yield "head", f"a HEAD announces {lengths[0]} bytes, a GET {lengths[1]}"


def _file(found: Examination) -> Iterator[tuple[str, str]]:
    response, ranges = found.reading.response, found.ranges
    assert response is not None
    if not response.get("Content-Length"):
        how = response.get("Content-Encoding")
        why = f" (removed by the {how} compression)" if how else ""
        yield "unsized", f"no Content-Length{why}: clients show no progress and get no ranges"
    if ranges is None:
        return
    (first, last), part = ranges.wanted, ranges.part
    if part is None or part.status != 206:
        status = part.status if part else "nothing"
        yield "range", f"a Range is answered with {status}, not 206: downloads restart at 0"
        return
    wanted = f"bytes {first}-{last}/{ranges.total}"
    if part.get("Content-Range") != wanted:
        yield "range", f"Content-Range is {part.get('Content-Range')!r}, not {wanted!r}"
    elif ranges.data != ranges.whole[first : last + 1]:
        yield "range", f"the bytes {first}-{last} differ from those in the whole file"
    if ranges.beyond is None or ranges.beyond.status != 416:
        status = ranges.beyond.status if ranges.beyond else "nothing"
        yield "range", f"a Range past the end is answered with {status}, not 416"


def _resumed(found: Examination) -> Iterator[tuple[str, str]]:
    how, _, what = found.resumed.partition(": ")
    text = {
        "again": f"the stream started again, at {what!r}",
        "later": f"the stream continued at {what!r}: the events in between are lost",
        "nothing": "no event came, although some had followed",
        "refused": f"the response was {what}",
    }.get(how)
    if text:
        yield (
            "resume",
            f"Last-Event-ID is not honoured: asked for the events after {found.after!r}, {text}",
        )


def heartbeat(reading: Reading) -> float | None:
    """The median silence before a heartbeat, in seconds; None if none was seen."""
    items = reading.items
    waits = [b.at - a.at for a, b in pairwise(items) if b.beat and b.at - a.at > HELD / 10]
    return median(waits) if waits else None


def notes(found: Examination) -> list[str]:
    """Facts that are good to know, and no fault."""
    response, reading = found.reading.response, found.reading
    return list(_notes(found, response, reading)) if response else []


def _notes(found: Examination, response: ResponseHead, reading: Reading) -> Iterator[str]:
    encoding = response.get("Content-Encoding")
    if found.kind == "file":
        if encoding and response.get("Content-Length"):
            yield f"the file is compressed ({encoding})"
        return
    if encoding and not reading.bursts:
        yield f"the stream is compressed ({encoding}), and flushed after each item"
    if CORKED < reading.head_at - reading.sent - found.head_took < 2 * CORKED:
        yield (
            f"the head came {reading.head_at - reading.sent:.2f} s after the request, that of a "
            f"HEAD after {found.head_took:.2f} s: haproxy without option http-no-delay delays "
            "each small chunk by 0.2 s"
        )
    if reading.ended == "whole":
        yield f"the stream ended normally after {_took(reading):.1f} s"
    if found.kind != "events":
        return
    beat = heartbeat(reading)
    if beat is None:
        silence = f"the longest silence: {_silence(reading):.2f} s"
        yield f"no heartbeat within {_took(reading):.1f} s; {silence}"
    if found.resumed == "honoured":
        yield f"Last-Event-ID is honoured: the events after {found.after!r} came"
    elif reading.items and not any(item.id for item in reading.items):
        yield "the events have no id: a client that reconnects misses those sent in between"
    if not {"no-cache", "no-store"} & set(
        response.get("Cache-Control").lower().replace(" ", "").split(",")
    ):
        yield "there is no Cache-Control: no-cache, so caches may store the stream"


def _took(reading: Reading) -> float:
    return reading.end_at - reading.sent


def _silence(reading: Reading) -> float:
    """The longest time without an item, in seconds; a heartbeat is an item."""
    times = [reading.head_at, *(item.at for item in reading.items), reading.end_at]
    return max(b - a for a, b in pairwise(times))
