"""What a connection shows: the responses on it, and how it ends.

The same bytes are read here whatever server sent them, and no HTTP library repairs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Answer(NamedTuple):
    """A response: its head as it was on the wire, without the date, and its decoded body."""

    status: str
    fields: tuple[str, ...]
    framing: str  # none, chunked, length, close
    body: bytes
    complete: bool


@dataclass(frozen=True)
class Seen:
    """All that a server did for one connection.

    end: kept, closed, silent (closed without a word), broken off in mid-body, or corrupt: bytes
    came that the framing before them does not allow.
    """

    answers: tuple[Answer, ...]
    rest: bytes
    end: str
    journal: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def seen(raw: bytes, methods: list[str]) -> Seen:
    """What `raw`, all bytes of a connection, says to requests of these methods and to LAST."""
    answers: list[Answer] = []
    rest, waiting = raw, [*methods, "GET"]
    while rest and waiting:
        head, blank, after = rest.partition(b"\r\n\r\n")
        if not blank or not re.match(rb"HTTP/1\.\d \d\d\d", head):
            break
        status, *fields = head.decode("latin-1").split("\r\n")
        code = int(status.split(" ")[1])
        framing, body, rest, complete = framed(after, fields, bodiless(waiting[0], code))
        fields = [re.sub(r"^Date: \w{3}, \d.* GMT$", "Date", line) for line in fields]
        answers.append(Answer(status, tuple(fields), framing, body, complete))
        if code >= 200:
            waiting.pop(0)
        if not complete:
            break
    return Seen(tuple(answers), rest, end(answers, rest))


def end(answers: list[Answer], rest: bytes) -> str:
    if not answers and not rest:
        return "silent"
    if rest or re.search(rb"HTTP/1\.\d \d\d\d ", answers[-1].body):
        return "corrupt"
    if not answers[-1].complete:
        return "broken off"
    return "kept" if answers[-1].body == b"last" else "closed"


def bodiless(method: str, code: int) -> bool:
    return method == "HEAD" or code < 200 or code in (204, 304)


def framed(data: bytes, fields: list[str], empty: bool) -> tuple[str, bytes, bytes, bool]:
    """RFC 9112 section 6.3: framing, body, what comes behind it, and whether it is complete."""
    if empty:
        return "none", b"", data, True
    if "Transfer-Encoding: chunked" in fields:
        body = b""
        while True:
            line, found, data = data.partition(b"\r\n")
            if not found:
                return "chunked", body, line, False
            if not re.fullmatch(rb"[0-9A-Fa-f]+", line):
                return "chunked", body, line + found + data, False
            size = int(line, 16)
            body += data[:size]
            if data[size : size + 2] != b"\r\n":
                return "chunked", body, data[size:], False
            data = data[size + 2 :]
            if size == 0:
                return "chunked", body, data, True
    for field_line in fields:
        name, _, value = field_line.partition(": ")
        if name.lower() == "content-length" and value.isdecimal():
            size = int(value)
            return "length", data[:size], data[size:], len(data) >= size
    return "close", data, b"", True
