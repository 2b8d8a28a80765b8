"""The result of an examination, as JSON for programs and as text for people."""

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
"""Characters of a sentence that quotes the server, at most."""

BOLD, RED, GREEN, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def report(found: Examination) -> dict[str, Any]:
    """Everything that was found, as JSON types. Times are seconds after the request was sent."""
    reading, wrong = found.reading, findings(found)
    response, beat = reading.response, heartbeat(reading)
    carrying = [item for item in reading.items if not item.beat]
    bursts = reading.bursts if found.kind != "file" else None
    return {
        "url": found.target.url,
        "kind": found.kind,
        "healthy": not wrong,
        "findings": [vars(finding) for finding in wrong],
        "notes": notes(found),
        "proxies": found.proxies,
        "response": response
        and {
            "version": response.version,
            "status": response.status,
            "type": response.get("Content-Type"),
            "encoding": response.get("Content-Encoding"),
            "headers": response.headers,
        },
        "head": _after(reading, reading.head_at),
        "first_byte": _after(reading, reading.first_at),
        "seconds": _after(reading, reading.end_at),
        "ended": reading.ended or None,
        "bytes": reading.size,
        "items": len(carrying),
        "interval": round(gap(carrying), 4),
        "bursts": bursts and bursts._asdict(),
        "heartbeat": beat and round(beat, 2),
        "last_event_id": found.resumed or None,
    }


def _after(reading: Reading, at: float) -> float | None:
    return round(at - reading.sent, 4) if at else None


def text(found: Examination, *, width: int = 80, colour: bool = False) -> str:
    """The report as lines for a terminal of `width` columns."""
    told, response = report(found), found.reading.response
    bold, red, green, plain = (BOLD, RED, GREEN, PLAIN) if colour else ("",) * 4
    rows = [f"{bold}{safe(found.target.url, LONGEST)}{plain}", ""]
    if found.proxies or response:
        shown = " <- ".join(map(safe, told["proxies"]))
        rows += _row("proxies", shown or "none that shows", width)
    if response is not None:
        length = response.get("Content-Length")
        framing = (
            f"{length} bytes" if length else response.get("Transfer-Encoding") or "until the close"
        )
        encoding = response.get("Content-Encoding")
        what = [response.get("Content-Type"), framing, encoding]
        told_as = [f"HTTP/{response.version} {response.status}", *map(safe, filter(None, what))]
        rows += _row("response", ", ".join(told_as), width)
        extra = [f"{name}: {safe(response.get(name))}" for name in SHOWN if response.get(name)]
        rows += _row("headers", ", ".join(extra), width) if extra else []
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
        for name, fix in finding.fixes.items():
            rows += textwrap.wrap(
                f"{name:<9} {fix}", width, initial_indent=" " * 4, subsequent_indent=" " * 14
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
    if told["bursts"]:
        return f"{flow}, in bursts"
    if told["items"] > 2:
        return f"{flow}, one by one, {_ms(told['interval'])} apart (median)"
    return flow


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _row(name: str, what: str, width: int) -> Sequence[str]:
    indent = " " * 12
    return textwrap.wrap(what, width, initial_indent=f"  {name:<10}", subsequent_indent=indent)
