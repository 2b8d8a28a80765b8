"""Screen: the output of ``vento-wsgi top``, as lines of text.

Clients control what a path or X-Forwarded-For contains, so each cell is made safe to print before
it is measured.
"""

from __future__ import annotations

from typing import Any

from ..terminal import cut, safe, width

__all__ = ["screen"]

ENDED = 8
"""Endings that are shown, at most; in a low terminal fewer, to leave room for the streams."""


def screen(now: dict[str, Any], before: dict[str, Any], columns: int, lines: int) -> str:
    """The output. now, before: replies of the workers, one refresh apart; rates are between them.

    columns, lines: the size of the terminal.
    """
    elapsed = max(0.001, now["at"] - before["at"])
    known = {row["key"]: row["bytes"] for row in _rows(before)}
    rows = [
        {**row, "rate": max(0.0, (row["bytes"] - known[row["key"]]) / elapsed)}
        if row["key"] in known
        else {**row, "rate": None}
        for row in _rows(now)
    ]
    rows.sort(key=lambda row: (-row["backlog"], -(row["rate"] or 0), -row["age"]))
    ended = sorted(
        (
            {**end, "worker": worker["worker"]}
            for worker in now["workers"]
            for end in worker.get("ended", [])
        ),
        key=lambda end: float(end["ago"]),
    )
    head = [_title(now, rows), *_silent(now), ""]
    below = _table(ENDINGS, ended[: min(ENDED, max(2, lines // 3))])
    room = max(1, lines - len(head) - (len(below) + 1 if ended else 0) - 1)
    shown = [*head, *_table(STREAMS, rows[:room])]
    if ended:
        shown += ["", *below]
    return "".join(f"{cut(line, columns).rstrip()}\n" for line in shown[:lines])


def _title(now: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    workers = now["workers"]
    count = sum(worker.get("streams", 0) for worker in workers)
    rate = sum(row["rate"] or 0 for row in rows)
    draining = sum(bool(worker.get("draining")) for worker in workers)
    told = [
        f"{now['name']} ({now['master']})",
        " ".join(now["listening"]),
        f"{len(workers)} worker{'s' * (len(workers) != 1)}",
        f"{draining} draining" if draining else "",
        f"{count} stream{'s' * (count != 1)}",
        f"{_size(rate)}/s",
    ]
    return safe(", ".join(filter(None, told)), 1000)


def _silent(now: dict[str, Any]) -> list[str]:
    return [
        f"worker {worker['worker']} {why}"
        for why, sign in (
            ("does not reply: something blocks its event loop", "blocked"),
            ("sent a reply that cannot be read: does it run another version?", "unclear"),
        )
        for worker in now["workers"]
        if worker.get(sign)
    ]


def _rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**row, "worker": worker["worker"], "key": f"{worker['worker']}-{row['key']}"}
        for worker in told["workers"]
        for row in worker.get("rows", [])
    ]


def _client(row: dict[str, Any]) -> str:
    first = row["forwarded"].partition(",")[0].strip()
    return f"{first} via {row['client']}" if first else row["client"] or "?"


def _backlog(row: dict[str, Any]) -> str:
    events = f" {row['events']} ev" if row["events"] else ""
    return f"{_size(row['backlog'])}{events}" if row["backlog"] or events else "-"


STREAMS = {
    "WORKER": lambda row: str(row["worker"]),
    "AGE": lambda row: _time(row["age"]),
    "STATE": lambda row: row["state"],
    "STILL": lambda row: _time(row["still"]),
    "BYTES": lambda row: _size(row["bytes"]),
    "RATE": lambda row: "?" if row["rate"] is None else f"{_size(row['rate'])}/s",
    "BACKLOG": _backlog,
    "CLIENT": _client,
    "ROUTE": lambda row: row["route"],
}

ENDINGS = {
    "ENDED": lambda end: f"{_time(end['ago'])} ago",
    "WORKER": lambda end: str(end["worker"]),
    "REASON": lambda end: end["reason"] or "?",
    "AFTER": lambda end: _time(end["seconds"]),
    "BYTES": lambda end: _size(end["bytes"]),
    "ROUTE": lambda end: end["route"],
}


def _table(columns: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    cells = [list(columns), *([safe(tell(row)) for tell in columns.values()] for row in rows)]
    widths = [max(width(row[place]) for row in cells) for place in range(len(columns))]
    return [
        "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths))
        for row in cells
    ]


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
    return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"
