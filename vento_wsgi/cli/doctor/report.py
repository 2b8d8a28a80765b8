"""Report: what was found, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from ..terminal import safe
from .bursts import gap
from .examination import Examination, Reading
from .findings import findings, heartbeat, notes
from .proxies import SHOWN

__all__ = ["report", "text"]

LONGEST = 500
"""Characters of a sentence that quotes the server."""

BOLD, RED, GREEN, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def report(found: Examination) -> dict[str, Any]:
    """Everything, as JSON has it. Times are in seconds from when the request was sent."""
    reading, wrong = found.reading, findings(found)
    answer, beat = reading.answer, heartbeat(reading)
    carrying = [item for item in reading.items if not item.beat]
    lumps = reading.lumps if found.kind != "file" else None
    return {
        "url": found.place.url,
        "kind": found.kind,
        "healthy": not wrong,
        "findings": [vars(finding) for finding in wrong],
        "notes": notes(found),
        "hops": found.hops,
        "answer": answer
        and {
            "version": answer.version,
            "status": answer.status,
            "type": answer.get("Content-Type"),
            "encoding": answer.get("Content-Encoding"),
            "headers": answer.headers,
        },
        "head": _after(reading, reading.head_at),
        "first_byte": _after(reading, reading.first_at),
        "seconds": _after(reading, reading.end_at),
        "ended": reading.ended or None,
        "bytes": reading.size,
        "items": len(carrying),
        "interval": round(gap(carrying), 4),
        "lumps": lumps and lumps._asdict(),
        "heartbeat": beat and round(beat, 2),
        "last_event_id": found.resumed or None,
    }


def _after(reading: Reading, at: float) -> float | None:
    return round(at - reading.sent, 4) if at else None


def text(found: Examination, *, width: int = 80, colour: bool = False) -> str:
    """The report as lines for a terminal of `width` columns."""
    told, answer = report(found), found.reading.answer
    bold, red, green, plain = (BOLD, RED, GREEN, PLAIN) if colour else ("",) * 4
    rows = [f"{bold}{safe(found.place.url, LONGEST)}{plain}", ""]
    if found.hops or answer:
        rows += _row("hops", " <- ".join(map(safe, told["hops"])) or "none that shows", width)
    if answer is not None:
        length = answer.get("Content-Length")
        framing = f"{length} bytes" if length else answer.get("Transfer-Encoding") or "to the close"
        encoding = answer.get("Content-Encoding")
        what = [answer.get("Content-Type"), framing, encoding]
        told_as = [f"HTTP/{answer.version} {answer.status}", *map(safe, filter(None, what))]
        rows += _row("answer", ", ".join(told_as), width)
        shown = [f"{name}: {safe(answer.get(name))}" for name in SHOWN if answer.get(name)]
        rows += _row("headers", ", ".join(shown), width) if shown else []
        first = told["first_byte"]
        times = f"head after {_ms(told['head'])}, first byte " + (
            f"after {_ms(first)}" if first is not None else "never"
        )
        rows += _row("times", times, width)
        rows += _row("body", _flow(found, told), width)
        if told["heartbeat"]:
            rows += _row("heartbeat", f"after {told['heartbeat']:g} s of silence", width)
    for finding in findings(found):
        quoting = f"! {finding.code}: {safe(finding.text, LONGEST)}"
        said = textwrap.wrap(quoting, width, subsequent_indent="  ")
        said[0] = said[0].replace(finding.code, f"{red}{bold}{finding.code}{plain}", 1)
        rows += ["", *said]
        for name, cure in finding.cures.items():
            rows += textwrap.wrap(
                f"{name:<9} {cure}", width, initial_indent=" " * 4, subsequent_indent=" " * 14
            )
    rows += [""] if told["notes"] else []
    for note in told["notes"]:
        rows += textwrap.wrap(f"- {safe(note, LONGEST)}", width, subsequent_indent="  ")
    count = len(told["findings"])
    verdict = (
        f"{red}{count} finding{'s' * (count > 1)}{plain}" if count else f"{green}healthy{plain}"
    )
    return "\n".join([*rows, "", verdict, ""])


def _flow(found: Examination, told: dict[str, Any]) -> str:
    if found.kind == "file":
        return f"a file; {told['bytes']:,} bytes of it read"
    what = "events" if found.kind == "events" else "items"
    flow = f"{told['items']} {what}, {told['bytes']:,} bytes in {told['seconds']:.1f} s"
    if told["lumps"]:
        return f"{flow}, in lumps"
    if told["items"] > 2:
        return f"{flow}, one by one, commonly {_ms(told['interval'])} apart"
    return flow


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _row(name: str, what: str, width: int) -> Sequence[str]:
    indent = " " * 12
    return textwrap.wrap(what, width, initial_indent=f"  {name:<10}", subsequent_indent=indent)
