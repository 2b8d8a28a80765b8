"""Findings: what is wrong with what was seen; and notes, which are good to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from .bursts import HELD, Lumps
from .examination import Examination, Reading
from .fixes import cures
from .request import Answer

__all__ = ["Finding", "findings", "heartbeat", "notes"]

LATE = 3.0
"""Seconds to the first byte that nobody should have to wait for."""

QUIET = 30.0
"""Seconds of silence at which the strictest of common proxies cut a connection."""


CORKED = 0.15
"""Seconds, less than the 0.2 for which Linux waits for more, where it was told that there is."""


@dataclass(frozen=True)
class Finding:
    """code: stays the same between versions. text: what was seen. cures: by whose setting."""

    code: str
    text: str
    cures: dict[str, str]


def findings(found: Examination) -> list[Finding]:
    """What is wrong, the worst first."""
    answer = found.reading.answer
    if answer is None:
        said = [_nothing(found)]
    else:
        said = [*_flow(found, answer), *_answer(found, answer), *_head(found, answer)]
        said += _file(found) if found.kind == "file" else _resumed(found)
    return [Finding(code, text, cures(code, found.hops)) for code, text in said]


def _nothing(found: Examination) -> tuple[str, str]:
    text = f"not even a head came within {found.reading.seconds:g} s"
    if found.plain is not None and found.plain.first_at and not found.plain.lumps:
        return "compression", f"{text}: without compression the stream comes at once"
    return "silent", text


def _flow(found: Examination, answer: Answer) -> Iterator[tuple[str, str]]:
    reading, lumps = found.reading, found.reading.lumps
    if found.kind == "file":
        pass
    elif lumps or not reading.first_at:
        encoding, plain = answer.get("Content-Encoding"), found.plain
        if plain is not None and plain.first_at and not plain.lumps:
            yield "compression", f"{encoding} holds items back: without it they come one by one"
        elif lumps:
            yield "buffering", _lumps(lumps, found.kind)
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


def _lumps(lumps: Lumps, kind: str) -> str:
    what = "events" if kind == "events" else "items"
    text = f"{what} come in lumps, up to {lumps.largest} at once ({lumps.size:,} bytes)"
    if lumps.sure:
        return f"{text}, held back for up to {lumps.held:.2f} s by what is in between"
    return (
        f"{text}, after silences of up to {lumps.held:.2f} s: held back on the way, or made so "
        'by the application; a "time" in their JSON would tell'
    )


def _cut(reading: Reading) -> tuple[str, str]:
    silence = reading.end_at - (reading.last_at or reading.head_at)
    if silence > HELD and silence >= _silence(reading):
        return "cut", f"cut after {silence:.1f} s of silence: something waits no longer than that"
    return "broken", f"the stream broke off after {_took(reading):.1f} s, without its end"


def _answer(found: Examination, answer: Answer) -> Iterator[tuple[str, str]]:
    seen = found.reading.seen
    via = [hop.split()[0] for hop in answer.get("Via").split(",") if hop.strip()]
    if answer.version == "1.0":
        text = "the answer is HTTP/1.0: no chunks, so that an end cannot be told from a cut"
        yield "downgrade", text
    elif seen.get("protocol") == "HTTP/1.0" or "1.0" in via:
        text = "a proxy speaks HTTP/1.0 on its far side: what fails there looks as if it had ended"
        yield "downgrade", text
    if seen and not seen.get("threads"):
        yield "threads", "the server's worker serves one stream at a time"
    if found.kind != "file":
        if length := answer.get("Content-Length"):
            yield "length", f"a Content-Length ({length}) on a stream: it was collected first"
        hit = [n for n in ("X-Cache", "CF-Cache-Status") if "hit" in answer.get(n).lower()]
        if hit or answer.get("Age") not in ("", "0"):
            sign = hit[0] if hit else "Age"
            yield "cached", f"this comes from a cache ({sign}: {answer.get(sign)})"


def _head(found: Examination, answer: Answer) -> Iterator[tuple[str, str]]:
    head, more = found.head or (None, 0)
    if head is None:
        yield "head", "a HEAD has no answer"
    elif more:
        yield "head", f"a HEAD is answered with a body ({more:,} bytes)"
    elif head.status in (405, 501):
        return  # it is refused cleanly
    elif head.status != answer.status:
        yield "head", f"a HEAD is answered with {head.status}, a GET with {answer.status}"
    elif head.get("Content-Encoding") == answer.get("Content-Encoding"):
        lengths = head.get("Content-Length"), answer.get("Content-Length")
        if all(lengths) and lengths[0] != lengths[1]:
            yield "head", f"a HEAD announces {lengths[0]} bytes, a GET {lengths[1]}"


def _file(found: Examination) -> Iterator[tuple[str, str]]:
    answer, ranges = found.reading.answer, found.ranges
    assert answer is not None
    if not answer.get("Content-Length"):
        how = answer.get("Content-Encoding")
        why = f" ({how} on the way takes it)" if how else ""
        yield "unsized", f"no Content-Length{why}: no progress is shown, and no range given"
    if ranges is None:
        return
    (first, last), part = ranges.wanted, ranges.part
    if part is None or part.status != 206:
        status = part.status if part else "nothing"
        yield "range", f"a Range is answered with {status}, not 206: downloads start again at 0"
        return
    wanted = f"bytes {first}-{last}/{ranges.total}"
    if part.get("Content-Range") != wanted:
        yield "range", f"Content-Range is {part.get('Content-Range')!r}, not {wanted!r}"
    elif ranges.data != ranges.whole[first : last + 1]:
        yield "range", f"the bytes {first}-{last} are not those of the whole file"
    if ranges.beyond is None or ranges.beyond.status != 416:
        status = ranges.beyond.status if ranges.beyond else "nothing"
        yield "range", f"a Range past the end is answered with {status}, not 416"


def _resumed(found: Examination) -> Iterator[tuple[str, str]]:
    how, _, what = found.resumed.partition(": ")
    text = {
        "again": f"the stream began again, at {what!r}",
        "later": f"the stream went on at {what!r}: what was in between is lost",
        "nothing": "nothing came of what had followed",
        "refused": f"the answer was {what}",
    }.get(how)
    if text:
        yield (
            "resume",
            f"Last-Event-ID is not honoured: asked for what follows {found.after!r}, {text}",
        )


def heartbeat(reading: Reading) -> float | None:
    """Seconds of silence after which a heartbeat comes; None if none was seen."""
    items = reading.items
    waits = [b.at - a.at for a, b in pairwise(items) if b.beat and b.at - a.at > HELD / 10]
    return median(waits) if waits else None


def notes(found: Examination) -> list[str]:
    """What is good to know, and no fault."""
    answer, reading = found.reading.answer, found.reading
    return list(_notes(found, answer, reading)) if answer else []


def _notes(found: Examination, answer: Answer, reading: Reading) -> Iterator[str]:
    encoding = answer.get("Content-Encoding")
    if found.kind == "file":
        if encoding and answer.get("Content-Length"):
            yield f"it is compressed ({encoding})"
        return
    if encoding and not reading.lumps:
        yield f"it is compressed ({encoding}), and flushed item by item"
    if CORKED < reading.head_at - reading.sent - found.head_took < 2 * CORKED:
        yield (
            f"the head came {reading.head_at - reading.sent:.2f} s after the request, that of a "
            f"HEAD after {found.head_took:.2f} s: haproxy holds each small chunk for 0.2 s where "
            "it has no option http-no-delay"
        )
    if reading.ended == "whole":
        yield f"the stream ended by itself after {_took(reading):.1f} s"
    if found.kind != "events":
        return
    beat = heartbeat(reading)
    if beat is None:
        silence = f"the longest silence: {_silence(reading):.2f} s"
        yield f"no heartbeat within {_took(reading):.1f} s; {silence}"
    if found.resumed == "honoured":
        yield f"Last-Event-ID is honoured: what follows {found.after!r} came"
    elif reading.items and not any(item.id for item in reading.items):
        yield "its events have no id: who comes back misses what was sent meanwhile"
    if not {"no-cache", "no-store"} & set(
        answer.get("Cache-Control").lower().replace(" ", "").split(",")
    ):
        yield "it has no Cache-Control: no-cache, so that caches may keep it"


def _took(reading: Reading) -> float:
    return reading.end_at - reading.sent


def _silence(reading: Reading) -> float:
    """The longest time without an item, heartbeats included."""
    times = [reading.head_at, *(item.at for item in reading.items), reading.end_at]
    return max(b - a for a, b in pairwise(times))
