"""StreamWorker beside gunicorn's own gevent worker, over raw sockets.

The first half sends the same bytes to both and compares all that they do: status, headers,
framing, body, how the connection ends, what the application saw, and both logs. Where
StreamWorker is better it stands in BETTER, with what exactly it does instead.

Nothing here measures time: a stream of apps/legacy.py waits until the test lets it go on.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count, product
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from apps.legacy import content
from gunicorn.util import write_error
from support import servers
from support.servers import Body, Head, Raw, Running, connect, eventually, reset_on_close, serve

from vento_wsgi.logs import printable

STOCK, OURS = "gunicorn-gevent", "gunicorn-StreamWorker"
ACCESS = "%(m)s %(U)s %(q)s %(s)s %(B)s"


T = TypeVar("T")
R = TypeVar("R")
Connect = Callable[[Running], Raw]


# What a connection shows.


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


LAST = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


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


class Server:
    """A server that runs apps/legacy.py, and all that it writes."""

    def __init__(self, running: Running, tmp: Path, connect: Connect = connect) -> None:
        self.running = running
        self.connect = connect
        self.journal = tmp / "journal"
        self.access = tmp / "access"
        self._read: dict[Path, int] = {}

    def new_lines(self, file: Path) -> list[str]:
        """The lines that `file` has got since it was last asked for."""
        if not file.exists():
            return []
        with file.open("rb") as opened:
            opened.seek(self._read.get(file, 0))
            data = opened.read()
        self._read[file] = self._read.get(file, 0) + len(data)
        return data.decode("utf-8", "replace").splitlines()

    def shows(self, case: Case) -> Seen:
        """Send the case and LAST behind it, and look at all that comes until the end."""
        for file in (self.journal, self.access, self.running.log_path):
            self.new_lines(file)
        with self.connect(self.running) as raw:
            with suppress(OSError):  # it may have closed already
                raw.sock.sendall(case.data + LAST)
                if not isinstance(raw.sock, ssl.SSLSocket):  # whose half cannot be closed
                    raw.sock.shutdown(socket.SHUT_WR)
            found = seen(raw.read_rest(), case.methods)
        return replace(
            found,
            journal=tuple(self.new_lines(self.journal)),
            access=tuple(self.new_lines(self.access)),
            errors=tuple(errors(self.new_lines(self.running.log_path))),
        )


def errors(lines: list[str]) -> Iterator[str]:
    """What a log says, without times, processes, addresses and the lines of code."""
    for line in lines:
        if not line.startswith((" ", "Traceback")):
            line = re.sub(r"^\[[^]]*] \[\d+] ", "", line)
            yield re.sub(r" at 0x[0-9a-f]+", "", line).replace("'WorkerResponse'", "'Response'")


# Requests.


@dataclass(frozen=True)
class Case:
    """Bytes that a client sends on one connection.

    query: what /make is asked for, where the case is one request for it.
    """

    name: str
    data: bytes
    methods: list[str] = field(default_factory=list)
    query: dict[str, str] = field(default_factory=dict)

    def says(self, **query: str) -> bool:
        """Whether each of these parts of the query is one of the words given for it."""
        return all(self.query.get(key, "") in words.split("|") for key, words in query.items())

    def sending(self, body: bytes) -> Case:
        return replace(self, data=self.data + body)

    @property
    def size(self) -> int:
        """Bytes that the application gives as a body."""
        size = sum(map(int, filter(None, self.query.get("chunks", "").split(","))))
        return size - 7 if self.says(body="file at 7") else size

    @property
    def missing(self) -> int:
        """Bytes that are announced and never given."""
        return int(self.query.get("length") or 0) - self.size

    @property
    def empty(self) -> bool:
        """Whether the response may have no body."""
        return self.methods == ["HEAD"] or self.query.get("status", "")[:3] in ("204", "304")


def ask(method: str, path: str, *fields: str, version: str = "1.1", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def make(*fields: str, method: str = "GET", version: str = "1.1", **query: str) -> Case:
    """A request for /make, whose query says what the response shall be."""
    parts = [f"{key}={value}" for key, value in query.items()]
    name = " ".join([method, *parts, *fields, *([] if version == "1.1" else [f"HTTP/{version}"])])
    path = "/make?" + "&".join(part.replace(" ", "+") for part in parts)
    return Case(name, ask(method, path, *fields, version=version), [method], query)


BODIES = ("list", "tuple", "iterator", "generator", "own", "write", "written", "file", "memory")


def bodies() -> Iterator[Case]:
    """What an application may return, whole and not as long as announced."""
    for body, chunks in product(BODIES, ("", "0", "5", "5,0,3", "0,5", "0,0")):
        size = sum(map(int, filter(None, chunks.split(","))))
        yield make(body=body, chunks=chunks)
        yield make(body=body, chunks=chunks, length=f"{size}")
        yield make(body=body, chunks=chunks, length=f"{size + 4}")
        if size:
            yield make(body=body, chunks=chunks, length=f"{size - 1}")
            yield make(body=body, chunks=chunks, length="0")
    for body, length in product(BODIES, ("", "210000")):
        yield make(body=body, chunks="100000,10000,100000", **named(length=length))
    for body in ("bytes", "text", "bytearray", "mixed", "none", "number", "plain file"):
        yield make(body=body, chunks="5,3")
        yield make(body=body, chunks="5,3", length="8")
    yield make(body="handled")
    for block in ("1", "5", "8192"):
        yield make(body="memory", chunks="5,3", block=block)
        yield make(body="file", chunks="5,3", block=block)
    for length in ("", "0", "1", "10", "13", "14", "20"):
        yield make(body="file at 7", chunks="9,11", **named(length=length))
    for length in ("", "4", "5", "8", "12"):
        yield make(body="written file", chunks="5,3", **named(length=length))


def named(**query: str) -> dict[str, str]:
    """Those of a query that are not empty."""
    return {name: value for name, value in query.items() if value}


STATUSES = (
    *("100 Continue", "101 Switching Protocols", "199 Odd", "200 OK", "200", "204 No Content"),
    *("205 Reset Content", "206 Partial Content", "301 Moved", "304 Not Modified", "404 %C3%80 la"),
    *("500 Sorry", "999 Odd", "99 Odd", "1000 Odd", "2000", "OK", "", "200OK", "200  two  blanks "),
)


def statuses() -> Iterator[Case]:
    """Statuses and methods whose responses have no body, with applications that give one."""
    for status, body in product(STATUSES, ("list", "own")):
        yield make(status=status, body=body, chunks="5,3")
        yield make(status=status, body=body, chunks="5,3", length="8")
    for body, chunks, length in product(BODIES, ("", "0", "5,0,3"), ("", "8")):
        query = {"body": body, "chunks": chunks, **named(length=length)}
        yield make(method="HEAD", **query)
        yield make(status="204 None", **query)
        yield make(status="304 Same", **query)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUERY", "X!"):
        yield make(method=method, body="list", chunks="5")
        yield make(method=method, body="own", chunks="5,3", length="8")


def versions() -> Iterator[Case]:
    """Clients of both versions, and what they say of the connection."""
    wishes = ("", "close", "keep-alive", "Close", "Keep-Alive", "close, TE", "upgrade", "other")
    for version, wish, body in product(("1.0", "1.1"), wishes, ("list", "own", "file")):
        fields = [f"Connection: {wish}"] if wish else []
        yield make(*fields, version=version, body=body, chunks="5,3")
        yield make(*fields, version=version, body=body, chunks="5,3", length="8")
    for method, length in product(("GET", "HEAD"), ("", "8", "12", "4")):
        wish = "Connection: keep-alive"
        query = {"body": "own", "chunks": "5,3", **named(length=length)}
        yield make(wish, version="1.0", method=method, status="404 None", **query)
        yield make(wish, version="1.0", method=method, status="204 None", **query)
        yield make(wish, version="1.0", method=method, status="304 Same", **query)
        yield make(wish, "Connection: close", method=method, **query)


POINTS = ("call", "started", "first", "mid", "last", "close")
ERRORS = ("exception", "os", "pipe", "exit", "greenlet-exit", "timeout", "base", "stop")


def failures() -> Iterator[Case]:
    """Errors at each point of a response."""
    for point, error, length in product(POINTS, ERRORS, ("", "8", "12")):
        if point == "close" and length == "12":
            continue  # two faults at once
        yield make(body="own", chunks="5,3", fail=point, error=error, **named(length=length))
    for point in POINTS:
        query = {"body": "own", "chunks": "0,5", "fail": point, "error": "exception"}
        yield make(**query)
        yield make(method="HEAD", **query)
        yield make(version="1.0", **query)
        yield make("Connection: keep-alive", version="1.0", **query)
        yield make(status="204 None", **query)
        yield make(length="0", **query)
    for error in ERRORS:
        yield make(body="write", chunks="5,3", fail="written", error=error)
        yield make(body="write", chunks="5,3", fail="written", error=error, length="8")
    for body in ("own", "list", "write"):
        yield make(body=body, chunks="5,3", start="never")
        yield make(body=body, chunks="5,3", start="twice")
    yield make(body="list", chunks="", start="never")
    for point, body, length in product(
        ("started", "mid", "written"), ("own", "write", "list"), ("", "8")
    ):
        query = {"body": body, "chunks": "5,3", "restart": point, **named(length=length)}
        yield make(**query)
        yield make(method="HEAD", **query)
        yield make(again="8", field="X-First:1", **query)


FIELDS = (
    *("Connection:close", "Connection:keep-alive", "Connection:upgrade", "Connection:Upgrade"),
    *("Transfer-Encoding:chunked", "Transfer-Encoding:gzip", "Upgrade:websocket", "Upgrade:h2c"),
    *("Keep-Alive:timeout=5", "Trailer:X-Sum", "TE:trailers", "Proxy-Connection:close"),
    *("Date:today", "Server:mine", "server:mine", "CONTENT-TYPE:text/x", "Set-Cookie:a=1; b"),
    *("Content-Length:8", "content-length:8", "Content-Length:+8", "Content-Length:08"),
    *("Content-Length:-1", "Content-Length:8, 8", "Content-Length:", "Content-Length:eight"),
    *("Content-Length:8.0", "X-Empty:", "X-Caf%C3%A9:1", "X-Tab:a%09b"),
    *("X-Escape:%1b", "X-Delete:%7f", "X-Colon:a:b", "X_Underscore:1", "X'!#$%25:1"),
)


def fields() -> Iterator[Case]:
    """Headers of responses."""
    for line in FIELDS:
        yield make(body="list", chunks="5,3", field=line)
        yield make(body="file", chunks="5,3", field=line, status="404 None")
    for pair in (
        "X-A:1&field=X-A:2",
        "Content-Length:8&field=Content-Length:8",
        "Content-Length:8&field=Content-Length:5",
        "Content-Length:5&field=Content-Length:8",
        "Connection:upgrade&field=Upgrade:websocket",
        "Set-Cookie:a=1&field=Set-Cookie:b=2",
        "&".join(["X-A:1"] + [f"field=X-{number}:{number}" for number in range(300)]),
        f"X-Long:{'x' * 5000}",
    ):
        yield make(body="list", chunks="5,3", field=pair)
        yield make(body="own", chunks="5,3", field=pair, status="101 Switching")
    for odd in ODD:
        yield make(body="list", chunks="5,3", odd=odd)
        yield make(body="own", chunks="5,3", odd=odd)


ODD = (
    *("bytes status", "bytes name", "bytes value", "number", "status line break"),
    *("value line break", "value line feed", "value null", "value beyond latin-1"),
    *("value latin-1", "value padded", "name empty", "name with a blank", "name with a colon"),
    *("no pairs", "no list", "tuple"),
)


def hints() -> Iterator[Case]:
    """Early hints and 100 Continue."""
    points = ("before", "started", "before,before", "before,started", "written", "started,written")
    for point, version, body in product(points, ("1.0", "1.1"), ("list", "write", "own")):
        yield make(version=version, body=body, chunks="5,3", hint=point)
    yield make(body="list", chunks="5,3", hint="before", evil="yes")
    yield make(method="HEAD", body="write", chunks="5,3", hint="written")
    yield make(method="HEAD", body="list", chunks="5,3", hint="before")
    yield make(body="list", chunks="5,3", hint="before", status="204 None")
    for expect, version in product(
        ("100-continue", "100-CONTINUE", "something", "100-continue, x", ""), ("1.0", "1.1")
    ):
        lines = (f"Expect: {expect}", "Content-Length: 4")
        for how in ("all", "", "2"):
            query = {"body": "list", "chunks": "5,3", "read": how}
            yield make(*lines, method="POST", version=version, **query).sending(b"body")
    yield make("Expect: 100-continue", body="list", chunks="5,3", hint="before")
    yield make("Expect: 100-continue", method="HEAD", body="list", chunks="5,3")


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


# What is sent as a body: how it is announced, and its bytes.
SENT: dict[str, tuple[str, bytes]] = {
    "nothing": ("Content-Length: 0", b""),
    "a length": ("Content-Length: 10", b"0123\n56789"),
    "a long length": ("Content-Length: 200000", b"12345678\r\n" * 20_000),
    "a request": (f"Content-Length: {len(LAST)}", LAST),
    "too little": ("Content-Length: 500", b"0123456789"),
    "too much": ("Content-Length: 5", b"0123456789"),
    "chunks": ("Transfer-Encoding: chunked", chunked(b"0123\n", b"56789")),
    "no chunk": ("Transfer-Encoding: chunked", chunked()),
    "large chunks": ("Transfer-Encoding: chunked", chunked(*[b"12345678\r\n" * 5000] * 3)),
    "many chunks": ("Transfer-Encoding: chunked", chunked(*[b"12345"] * 500)),
    "a chunked request": ("Transfer-Encoding: chunked", chunked(LAST, LAST)),
    "trailers": ("Transfer-Encoding: chunked", chunked(b"01234", end=b"0\r\nX-Sum: 1\r\n\r\n")),
    "a bad trailer": ("Transfer-Encoding: chunked", chunked(b"01", end=b"0\r\nX Sum\r\n\r\n")),
    "a forbidden trailer": (
        "Transfer-Encoding: chunked",
        chunked(b"01", end=b"0\r\nContent-Length: 7\r\n\r\n"),
    ),
    "an extension": ("Transfer-Encoding: chunked", b"5;name=value\r\n01234\r\n0;last\r\n\r\n"),
    "a quoted extension": ("Transfer-Encoding: chunked", b'5; a="b;c"\r\n01234\r\n0\r\n\r\n'),
    "a bad extension": ("Transfer-Encoding: chunked", b"5;a b\r\n01234\r\n0\r\n\r\n"),
    "leading zeros": ("Transfer-Encoding: chunked", b"0005\r\n01234\r\n000\r\n\r\n"),
    "capitals": ("Transfer-Encoding: CHUNKED", b"A\r\n0123456789\r\n0\r\n\r\n"),
    "a bad size": ("Transfer-Encoding: chunked", b"zz\r\n01234\r\n0\r\n\r\n"),
    "a signed size": ("Transfer-Encoding: chunked", b"+5\r\n01234\r\n0\r\n\r\n"),
    "a prefixed size": ("Transfer-Encoding: chunked", b"0x5\r\n01234\r\n0\r\n\r\n"),
    "an empty size": ("Transfer-Encoding: chunked", b"\r\n01234\r\n0\r\n\r\n"),
    "a long size line": ("Transfer-Encoding: chunked", b"0" * 20_000 + b"5\r\n01234\r\n0\r\n\r\n"),
    "a short chunk": ("Transfer-Encoding: chunked", b"6\r\n01234\r\n0\r\n\r\n"),
    "a long chunk": ("Transfer-Encoding: chunked", b"4\r\n01234\r\n0\r\n\r\n"),
    "bare line feeds": ("Transfer-Encoding: chunked", b"5\n01234\n0\n\n"),
    "an unfinished chunk": ("Transfer-Encoding: chunked", b"fff\r\n01234"),
    "no last chunk": ("Transfer-Encoding: chunked", chunked(b"01234", end=b"")),
    "two lengths": ("Content-Length: 4\r\nContent-Length: 4", b"0123"),
    "other lengths": ("Content-Length: 4\r\nContent-Length: 5", b"01234"),
    "a list of lengths": ("Content-Length: 4, 4", b"0123"),
    "a signed length": ("Content-Length: +4", b"0123"),
    "a negative length": ("Content-Length: -4", b"0123"),
    "a fraction": ("Content-Length: 4.0", b"0123"),
    "a superscript": ("Content-Length: \xb2", b"01"),
    "a length and chunks": ("Content-Length: 4\r\nTransfer-Encoding: chunked", chunked(b"0123")),
    "chunks and a length": ("Transfer-Encoding: chunked\r\nContent-Length: 4", chunked(b"0123")),
    "gzip": ("Transfer-Encoding: gzip", b"0123"),
    "gzip in chunks": ("Transfer-Encoding: gzip, chunked", chunked(b"0123")),
    "chunks in gzip": ("Transfer-Encoding: chunked, gzip", chunked(b"0123")),
    "twice chunked": ("Transfer-Encoding: chunked, chunked", chunked(b"0123")),
    "identity": ("Transfer-Encoding: identity", b"0123"),
    "an unknown coding": ("Transfer-Encoding: fold", b"0123"),
    "a padded coding": ("Transfer-Encoding:   chunked  ", chunked(b"0123")),
    "a vertical tab": ("Transfer-Encoding: \x0bchunked", chunked(b"0123")),
}


def sent() -> Iterator[Case]:
    """Bodies of requests, however much of them the application reads."""
    for (name, (lines, data)), how in product(SENT.items(), ("all", "", "4", "careless")):
        found = make(lines, method="POST", body="list", chunks="5,3", read=how).sending(data)
        yield replace(found, name=f"{name}: {found.name[:60]}")
    for how, name in product(("lines", "items", "twice"), ("a length", "chunks", "too little")):
        lines, data = SENT[name]
        yield make(lines, method="PUT", body="own", chunks="5", read=how).sending(data)
    for name in ("a length", "chunks", "too little", "a bad size"):
        lines, data = SENT[name]
        for version, body in product(("1.0", "1.1"), ("own", "file")):
            query = {"body": body, "chunks": "5,3", "length": "8"}
            found = make(lines, method="POST", version=version, **query).sending(data)
            yield replace(found, name=f"{name}: {found.name}")


BAD_HOSTS = ("a/b", "a b", "a@b", "a:b", "a:80:80", "a?b", "a#b", "a%zz", "[::1", "[x]", "[1.2]")
GOOD_HOSTS = ("a_b:", "127.0.0.1:8000", "[::1]:80", "[v1.a:b]", "%41", "a.b.", "x!$&'()*+,;=")
HOSTS = (*BAD_HOSTS, *GOOD_HOSTS)
BAD_TARGETS = ("https://user@other/path", "http:///path", "http://a:b/", "path?u=http://a/")

MALFORMED = (
    *("a bad trailer", "a forbidden trailer", "a bad extension", "a bad size", "a signed size"),
    *("a prefixed size", "an empty size", "a long size line", "a short chunk", "a long chunk"),
    *("bare line feeds", "an unfinished chunk", "no last chunk"),
)

# Heads of requests, each with the blank line that ends it.
HEADS: dict[str, bytes] = {
    "plain": ask("GET", "/plain"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no host in 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "two hosts": ask("GET", "/", "Host: other"),
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    **{f"host: {host}": f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for host in HOSTS},
    "no host, HEAD": b"HEAD / HTTP/1.1\r\n\r\n",
    "a line too long, HEAD": ask("HEAD", "/" + "x" * 20_000),
    "too many fields, HEAD": ask("HEAD", "/", *[f"X-{number}: 1" for number in range(100)]),
    "bad version, HEAD": ask("HEAD", "/", version="2.0"),
    "query": ask("GET", "/path?a=b&c=%20d?e/f"),
    "escaped path": ask("GET", "/a%20b%2Fc%C3%A9%00?%20"),
    "bad escape": ask("GET", "/a%zz%2"),
    "raw latin-1 path": b"GET /caf\xe9 HTTP/1.1\r\nHost: test\r\n\r\n",
    "raw utf-8 path": "GET /café HTTP/1.1\r\nHost: test\r\n\r\n".encode(),
    "fragment": ask("GET", "/path#fragment?query"),
    "dots": ask("GET", "/a/../b/./c//d"),
    "two slashes": ask("GET", "//host/path"),
    "absolute form": ask("GET", "http://other:81/path?query"),
    "absolute form without a path": ask("GET", "http://other"),
    "absolute form in 1.0": b"GET http://other/ HTTP/1.0\r\n\r\n",
    "absolute form with an empty host": b"GET http://other/ HTTP/1.1\r\nHost:\r\n\r\n",
    "absolute form without a host": b"GET http://other/ HTTP/1.1\r\n\r\n",
    **{f"target: {target}": ask("GET", target) for target in BAD_TARGETS},
    "asterisk": ask("OPTIONS", "*"),
    "asterisk with GET": ask("GET", "*"),
    "authority": ask("CONNECT", "other:443"),
    "no slash": ask("GET", "path"),
    "only a query": ask("GET", "?query"),
    "empty target": b"GET  HTTP/1.1\r\nHost: test\r\n\r\n",
    "bad ipv6": ask("GET", "http://[::1/path"),
    "colon path": ask("GET", "/a:b;c=d,e@f"),
    "lower-case method": ask("get", "/"),
    "mixed method": ask("Get", "/"),
    "long method": ask("A" * 20, "/"),
    "longer method": ask("A" * 21, "/"),
    "short method": ask("GE", "/"),
    "one letter": ask("G", "/"),
    "punctuated method": ask("M-SEARCH", "/"),
    "hash method": ask("GET#", "/"),
    "method with a null": b"GE\0T / HTTP/1.1\r\nHost: test\r\n\r\n",
    "no method": b"/ HTTP/1.1\r\nHost: test\r\n\r\n",
    "no version": b"GET /\r\nHost: test\r\n\r\n",
    "version 0.9": ask("GET", "/", version="0.9"),
    "version 1.2": ask("GET", "/", version="1.2"),
    "version 1.9": ask("GET", "/", version="1.9"),
    "version 2.0": ask("GET", "/", version="2.0"),
    "version 3": ask("GET", "/", version="3"),
    "version 1.10": ask("GET", "/", version="1.10"),
    "version 01.1": ask("GET", "/", version="01.1"),
    "version 1.x": ask("GET", "/", version="1.x"),
    "lower-case protocol": b"GET / http/1.1\r\nHost: test\r\n\r\n",
    "other protocol": b"GET / RTSP/1.1\r\nHost: test\r\n\r\n",
    "no protocol": b"GET / 1.1\r\nHost: test\r\n\r\n",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "extra word": b"GET / HTTP/1.1 more\r\nHost: test\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: test\r\n\r\n",
    "leading blank": b" GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    "trailing blank": b"GET / HTTP/1.1 \r\nHost: test\r\n\r\n",
    "tab": b"GET\t/\tHTTP/1.1\r\nHost: test\r\n\r\n",
    "null in the target": b"GET /a\0b HTTP/1.1\r\nHost: test\r\n\r\n",
    "bare carriage return in the line": b"GET /\rX HTTP/1.1\r\nHost: test\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: test\n\n",
    "one bare line feed": b"GET / HTTP/1.1\r\nHost: test\nX-A: 1\r\n\r\n",
    "an empty line before": b"\r\n" + ask("GET", "/"),
    "two empty lines before": b"\r\n\r\n" + ask("GET", "/"),
    "a line feed before": b"\n" + ask("GET", "/"),
    "garbage": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
    "one null": b"\0\r\n\r\n",
    "only a line": b"GET / HTTP/1.1\r\n",
    "a response": b"HTTP/1.1 200 OK\r\n\r\n",
    "the longest line": ask("GET", "/" + "x" * (4094 - len("GET / HTTP/1.1"))),
    "a line too long": ask("GET", "/" + "x" * (4095 - len("GET / HTTP/1.1"))),
    "a line far too long": ask("GET", "/" + "x" * 20_000),
    "a long field": ask("GET", "/", f"X-Long: {'x' * 8000}"),
    "the longest field": ask("GET", "/", f"X-Long: {'x' * (8190 - 10)}"),
    "a field too long": ask("GET", "/", f"X-Long: {'x' * (8190 - 9)}"),
    "a hundred fields": ask("GET", "/", *[f"X-{number}: {number}" for number in range(99)]),
    "too many fields": ask("GET", "/", *[f"X-{number}: {number}" for number in range(100)]),
    "a long name": ask("GET", "/", f"{'x' * 5000}: 1"),
    "folded": ask("GET", "/", "X-Folded: one", " two", "\tthree"),
    "folded first": b"GET / HTTP/1.1\r\n Host: test\r\n\r\n",
    "no colon": ask("GET", "/", "X-Colon"),
    "only a colon": ask("GET", "/", ":"),
    "no name": ask("GET", "/", ": value"),
    "blank before the colon": ask("GET", "/", "X-Blank : 1"),
    "blank in the name": ask("GET", "/", "X Blank: 1"),
    "no blank behind the colon": ask("GET", "/", "X-Tight:1"),
    "padded value": ask("GET", "/", "X-Padded: \t value \t "),
    "empty value": ask("GET", "/", "X-Empty:", "X-Blank:   "),
    "latin-1 name": ask("GET", "/", "X-Caf\xe9: 1"),
    "latin-1 value": ask("GET", "/", "X-Value: caf\xe9"),
    "null in a name": ask("GET", "/", "X-N\0: 1"),
    "null in a value": ask("GET", "/", "X-Null: a\0b"),
    "escape in a value": ask("GET", "/", "X-Escape: \x1b[0m"),
    "delete in a value": ask("GET", "/", "X-Delete: \x7f"),
    "bare carriage return in a value": ask("GET", "/", "X-Return: a\rb"),
    "parentheses in a name": ask("GET", "/", "X(Y): 1"),
    "underscore": ask("GET", "/", "X_Under: 1"),
    "underscore and dash": ask("GET", "/", "X-Under: 1", "X_Under: 2"),
    "script name": ask("GET", "/", "SCRIPT_NAME: /app"),
    "proxy": ask("GET", "/", "Proxy: evil"),
    "forwarded": ask("GET", "/", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"),
    "contradicting schemes": ask("GET", "/", "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
    "repeated": ask("GET", "/", "X-A: 1", "x-a: 2", "X-A:", "Cookie: a=1", "Cookie: b=2"),
    "two types": ask("GET", "/", "Content-Type: a/b", "Content-Type: c/d"),
    "content type": ask("GET", "/", "Content-Type: a/b; c=d"),
    "upgrade": ask("GET", "/", "Connection: Upgrade", "Upgrade: websocket"),
    "h2c": ask(
        "GET", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: "
    ),
    "te": ask("GET", "/", "TE: trailers", "Trailer: X"),
}


def heads() -> Iterator[Case]:
    """Heads of requests, alone and behind another request."""
    for name, head in HEADS.items():
        method = head.strip().partition(b" ")[0].decode("latin-1")
        yield Case(f"head: {name}", head, [method])
        yield Case(f"behind: {name}", PLAIN + head, ["GET", method])
    yield Case("nothing", b"", [])


PLAIN = ask("GET", "/make?body=generator&chunks=5,0,3")


def pipelines() -> Iterator[Case]:
    """Requests sent together."""
    small = [
        make(method=method, body=body, chunks=chunks, **named(length=length))
        for method, body, chunks, length in (
            ("GET", "list", "5", ""),
            ("GET", "own", "5,3", ""),
            ("HEAD", "own", "5,3", "8"),
            ("GET", "file", "5,3", "8"),
            ("GET", "memory", "5,0,3", ""),
            ("GET", "write", "5,3", ""),
            ("GET", "list", "", "0"),
        )
    ]
    for first, second in product(small, small):
        joined = first.data + second.data
        yield Case(f"{first.name} + {second.name}", joined, first.methods + second.methods)
    yield Case(
        "200 requests",
        b"".join(case.data for case in small * 29),
        [method for case in small * 29 for method in case.methods],
    )
    length, coding = "Content-Length: 10", "Transfer-Encoding: chunked"
    for how in ("all", "", "4"):
        with_length = make(length, method="POST", body="list", chunks="5", read=how)
        with_chunks = make(coding, method="POST", body="own", chunks="5", read=how)
        bodies = (with_length.sending(b"0123456789"), with_chunks.sending(chunked(b"012", b"34")))
        joined = b"".join(case.data for case in bodies * 5)
        yield Case(f"10 bodies, read: {how}", joined, ["POST"] * 10)


FAMILIES = (bodies, statuses, versions, failures, fields, hints, sent, heads, pipelines)
CASES: dict[str, Case] = {}
for family in FAMILIES:
    for case in family():
        assert case.name not in CASES, case.name
        CASES[case.name] = case


# Where StreamWorker is better.


class Better(NamedTuple):
    """What StreamWorker does otherwise than gunicorn's worker, on purpose.

    when: of which cases. stock, ours: how the connection ends on either.
    instead: what StreamWorker shows, made from what the other one does.
    """

    why: str
    when: Callable[[Case], bool]
    stock: str
    ours: str
    instead: Callable[[Case, Seen], Seen]


def page(status: int, reason: str, text: str = "") -> Answer:
    """gunicorn's own error page."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_error(ours, status, reason, text)
        return seen(theirs.recv(1 << 16), []).answers[0]


FAILED = page(500, "Internal Server Error")
ANSWERED = Answer(
    "HTTP/1.1 200 OK",
    ("Server: gunicorn", "Date", "Connection: close", "Content-Length: 4"),
    *("length", b"last", True),
)
LOGGED = "[ERROR] Error handling request"


def query(case: Case) -> str:
    return case.data.split(b" ")[1].partition(b"?")[2].decode()


def final(show: Seen) -> list[Answer]:
    return [answer for answer in show.answers if not answer.status.startswith("HTTP/1.1 1")]


FILE = r"/make .*body=(written.)?file\b.* (2|4)0\d \d+$"


def counted(_case: Case, show: Seen) -> Seen:
    lines = [
        f"{line.rpartition(' ')[0]} {len(answer.body)}" if re.search(FILE, line) else line
        for line, answer in zip(show.access, final(show))
    ]
    return replace(show, access=tuple(lines))


def broken_off(_case: Case, show: Seen) -> Seen:
    """The body ends where the application left it, and the connection with it."""
    answer = show.answers[0]
    body = (answer.body + show.rest).partition(b"HTTP/1.1 ")[0]
    answer = answer._replace(body=body, complete=False)
    return replace(show, answers=(answer,), rest=b"", end="broken off", access=own(show))


def own(show: Seen) -> tuple[str, ...]:
    """The lines of the access log on the response of the application."""
    return tuple(line for line in show.access if "/make" in line)


def short(case: Case, show: Seen) -> Seen:
    why = f"[ERROR] GET /make: a body ended {case.missing} bytes short of its Content-Length"
    return replace(broken_off(case, show), errors=(*show.errors, why))


def kept(_case: Case, show: Seen) -> Seen:
    return replace(
        show,
        answers=(show.answers[0], ANSWERED),
        rest=b"",
        end="kept",
        access=(*own(show), "GET /last  200 4"),
    )


PIPE = ("BrokenPipeError: [Errno 32] broken",)  # a line of the log that the other one leaves out


def failed(case: Case, show: Seen) -> Seen:
    request = f"{case.methods[0]} /make?{query(case)}"
    return replace(
        show,
        answers=(FAILED,),
        rest=b"",
        end="closed",
        access=(*show.access, f"{case.methods[0]} None {query(case)} 500 0"),
        errors=(f"{LOGGED} {request}", *(show.errors[1:] or PIPE)),
    )


def logged(case: Case, show: Seen) -> Seen:
    return replace(broken_off(case, show), errors=(LOGGED, *show.errors[1:]))


def named_so(_case: Case, show: Seen) -> Seen:
    return replace(show, errors=(LOGGED, *(show.errors[1:] or PIPE)))


def without_body(_case: Case, show: Seen) -> Seen:
    error = show.answers[-1]._replace(framing="none", body=b"", complete=True)
    return replace(show, answers=(*show.answers[:-1], error), rest=b"", end="closed")


def closing(_case: Case, show: Seen) -> Seen:
    first = show.answers[0]
    fields = [field.replace("keep-alive", "close") for field in first.fields]
    return replace(show, answers=(first._replace(fields=tuple(fields)),))


def broken(_case: Case, show: Seen) -> Seen:
    answers, journal = (page(400, "Bad Request"),), ("read fails: RequestBroken",)
    return replace(show, answers=answers, end="closed", journal=journal, access=())


def refused(text: str, *, known: bool) -> Callable[[Case, Seen], Seen]:
    """A 400 that says so. known: whether the access log has a line, which needs a whole head."""

    def instead(case: Case, show: Seen) -> Seen:
        before = len(case.methods) - 1
        said = text if known else f"Invalid Request Line '{text}'"
        answer = page(400, "Bad Request", said)
        if case.methods[-1] == "HEAD":
            answer = answer._replace(framing="none", body=b"")
        line = (f"{case.methods[-1]} None {query(case) if not before else ''} 400 0",)
        return replace(
            show,
            answers=(*show.answers[:before], answer),
            rest=b"",
            end="closed",
            journal=show.journal[:before],
            access=show.access[:before] + (line if known else ()),
            errors=(f"[WARNING] Invalid request from ip=127.0.0.1: {text}",),
        )

    return instead


def sees(old: str, new: str) -> Callable[[Case, Seen], Seen]:
    """The application sees something else of the request, and says so."""

    def instead(case: Case, show: Seen) -> Seen:
        at, longer = len(case.methods) - 1, len(new) - len(old)
        size = len(show.answers[at].body)

        def grown(line: str) -> str:
            return line.replace(f" {size}", f" {size + longer}")

        answer = show.answers[at]
        answer = answer._replace(
            status=answer.status.replace(old, new),
            fields=tuple(map(grown, answer.fields)),
            body=answer.body.replace(old.encode(), new.encode()),
        )
        answers = (*show.answers[:at], answer, *show.answers[at + 1 :])
        return replace(show, answers=answers, access=tuple(map(grown, show.access)))

    return instead


def tunnel(case: Case, show: Seen) -> Seen:
    show = sees('"PATH_INFO": "443"', '"PATH_INFO": ""')(case, show)
    return replace(show, access=tuple(line.replace(" 443 ", "  ") for line in show.access))


def head(*names: str) -> Callable[[Case], bool]:
    """Whether a case is one of HEADS, alone or behind another request."""
    return lambda case: case.name.partition(": ")[2] in names


def alone(_case: Case, show: Seen) -> Seen:
    errors = (LOGGED, *show.errors[1:]) if show.errors else ()
    return replace(show, answers=show.answers[:1], end="closed", access=own(show), errors=errors)


def silent(_case: Case, show: Seen) -> Seen:
    return replace(show, answers=(), end="silent", access=show.access[:-1])


def restarted(case: Case, show: Seen) -> Seen:
    first, *others = show.answers
    dropped = {"X-First: 1", "Content-Length: 8"}
    fields = [line for line in first.fields if line not in dropped]
    if case.says(again="8"):
        fields.append("Content-Length: 8")
    elif case.methods == ["GET"]:
        fields.insert(3, "Transfer-Encoding: chunked")
        first = first._replace(framing="chunked")
    return replace(show, answers=(first._replace(fields=tuple(fields)), *others))


BETTER = (
    Better(
        "A body that is shorter than its Content-Length breaks the connection off, and is logged:"
        " the next response would be taken for its rest.",
        lambda case: case.missing > 0 and not case.empty and case.says(fail="|close"),
        stock="corrupt",
        ours="broken off",
        instead=short,
    ),
    Better(
        "A file without a Content-Length goes out in chunks, of which an empty file has none:"
        " as an empty chunk it ends the response, and the final chunk is left over.",
        lambda case: case.says(body="file", length="") and case.size == 0 and not case.empty,
        stock="corrupt",
        ours="kept",
        instead=kept,
    ),
    Better(
        "A file never goes beyond the Content-Length, whatever was written before it.",
        lambda case: case.says(body="written file", length="4|5"),
        stock="corrupt",
        ours="kept",
        instead=kept,
    ),
    Better(
        "What a client has sent is printable in the access log.",
        lambda case: b"%00" in case.data,
        stock="",
        ours="",
        instead=lambda _, show: replace(show, access=tuple(map(printable, show.access))),
    ),
    Better(
        "The access log tells how many bytes of a file were sent.",
        lambda case: b"file" in case.data and not case.says(field="Content-Length:-1"),
        stock="",
        ours="",
        instead=counted,
    ),
    Better(
        "What start_response says with exc_info replaces what it said before (PEP 3333).",
        lambda case: case.says(restart="started") and not case.says(field="", length=""),
        stock="kept",
        ours="kept",
        instead=restarted,
    ),
    Better(
        "The head leaves with the first chunk: one that is no bytes object is an error page.",
        lambda case: case.says(body="bytes|text|bytearray"),
        stock="broken off",
        ours="closed",
        instead=failed,
    ),
    Better(
        "An OSError of the application's own, before the head, is an error page: a broken pipe"
        " is the client's only on the client's socket.",
        lambda case: case.says(error="os|pipe", fail="call|started|first"),
        stock="silent",
        ours="closed",
        instead=failed,
    ),
    Better(
        "After the head it breaks the body off, and is logged like any other.",
        lambda case: case.says(error="os|pipe", fail="mid|last|written|close"),
        stock="",
        ours="",
        instead=named_so,
    ),
    Better(
        "An error page has no body if the request was a HEAD (RFC 9110, section 9.3.2).",
        lambda case: (
            (
                case.methods == ["HEAD"]
                and case.says(fail="call|started|first", error="exception")
                and not case.says(fail="")
            )
            or head("a line too long, HEAD", "too many fields, HEAD", "bad version, HEAD")(case)
        ),
        stock="corrupt",
        ours="closed",
        instead=without_body,
    ),
    Better(
        "A body that ends before its length, or before its last chunk, is an error where it is"
        " read: half of an upload must not look whole.",
        lambda case: (
            (
                b"Content-Length: 500\r\n" in case.data
                and case.says(read="all|4|lines|items|twice|careless")
            )
            or (b"fff\r\n01234" in case.data and case.says(read="all|4"))
        ),
        stock="",
        ours="closed",
        instead=broken,
    ),
    Better(
        "A response says that the connection closes, if it will because of a malformed body.",
        lambda case: case.says(read="careless") and case.name.partition(":")[0] in MALFORMED,
        stock="closed",
        ours="closed",
        instead=closing,
    ),
    Better(
        "HTTP/1.1 without a Host is refused (RFC 9112, section 3.2).",
        head("no host", "no host, HEAD", "absolute form without a host"),
        stock="kept",
        ours="closed",
        instead=refused("Invalid HTTP Header: 'HOST'", known=True),
    ),
    *(
        Better(
            f"So is one that is not valid: {host}.",
            head(f"host: {host}"),
            stock="kept",
            ours="closed",
            instead=refused(f"Invalid HTTP Header: 'HOST: {host}'", known=True),
        )
        for host in BAD_HOSTS
    ),
    Better(
        "A target in absolute form replaces Host (RFC 9112, section 3.2.2).",
        head("absolute form"),
        stock="kept",
        ours="kept",
        instead=sees('"HTTP_HOST": "test"', '"HTTP_HOST": "other:81"'),
    ),
    Better(
        "The same without a path.",
        head("absolute form without a path"),
        stock="kept",
        ours="kept",
        instead=sees('"HTTP_HOST": "test"', '"HTTP_HOST": "other"'),
    ),
    Better(
        "The same where HTTP/1.0 has no Host.",
        head("absolute form in 1.0"),
        stock="closed",
        ours="closed",
        instead=sees('{\n "PATH', '{\n "HTTP_HOST": "other",\n "PATH'),
    ),
    *(
        Better(
            f"A target that has no authority, or none that is valid, is refused: {target}.",
            head(f"target: {target}"),
            stock="kept",
            ours="closed",
            instead=refused(f"Invalid HTTP request line: '{target}'", known=False),
        )
        for target in BAD_TARGETS
    ),
    Better(
        "An empty Host is valid only where the target has no authority (RFC 9112, section 3.2).",
        head("absolute form with an empty host"),
        stock="kept",
        ours="closed",
        instead=refused("Invalid HTTP Header: 'HOST: '", known=True),
    ),
    Better(
        "CONNECT has a target in authority form and no other (RFC 9112, section 3.2.3).",
        lambda case: case.methods[-1:] == ["CONNECT"] and b" other:443 " not in case.data,
        stock="closed",
        ours="closed",
        instead=lambda case, show: refused(
            f"Invalid HTTP request line: '{case.data.split()[1].decode()}'", known=False
        )(case, replace(show, journal=())),
    ),
    Better(
        "Such a target has neither path nor query (RFC 9112, section 3.3).",
        head("authority"),
        stock="closed",
        ours="closed",
        instead=tunnel,
    ),
    *(
        Better(
            f"A request of a higher minor version is one of HTTP/1.1: {version}.",
            head(f"version {version}"),
            stock="kept",
            ours="kept",
            instead=sees(f"HTTP/{version}", "HTTP/1.1"),
        )
        for version in ("1.2", "1.9")
    ),
    Better(
        "An error that is no Exception, a gevent.Timeout say, breaks off a body that has begun:"
        " an error page would be taken for more of it, or for the next response.",
        lambda case: case.says(error="timeout|base", fail="mid|last|written") and not whole(case),
        stock="corrupt",
        ours="broken off",
        instead=logged,
    ),
    Better(
        "The same after a whole body.",
        lambda case: case.says(error="timeout|base", fail="last|written|close") and whole(case),
        stock="closed",
        ours="closed",
        instead=alone,
    ),
    Better(
        "GreenletExit ends the connection: half of a response may not be followed by another.",
        lambda case: case.says(error="greenlet-exit", fail="mid|last|written") and not whole(case),
        stock="corrupt",
        ours="broken off",
        instead=broken_off,
    ),
    Better(
        "The same after a whole body.",
        lambda case: case.says(error="greenlet-exit", fail="last|written|close") and whole(case),
        stock="kept",
        ours="closed",
        instead=alone,
    ),
    Better(
        "A request that SystemExit or GreenletExit leaves without an answer ends the connection:"
        " the next request's answer would be taken for its own.",
        lambda case: case.says(error="exit|greenlet-exit", fail="call|started|first"),
        stock="kept",
        ours="silent",
        instead=silent,
    ),
)


def whole(case: Case) -> bool:
    """Whether a response whose application fails is whole by then."""
    return case.says(fail="close") or case.says(fail="last|written", length="8")


Pair = tuple[Server, Server]


@contextmanager
def run_legacy(
    server: str, tmp: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[Server]:
    (tmp / "files").mkdir()
    env = {"JOURNAL": str(tmp / "journal"), "FILES": str(tmp / "files"), **(env or {})}
    log = [f"--access-logfile={tmp / 'access'}", f"--access-logformat={ACCESS}"]
    options = ("--keep-alive=20", "--no-control-socket", *log, *options)
    with serve(server, "apps.legacy:app", tmp=tmp, env=env, options=options) as running:
        yield Server(running, tmp)


def stop(*started: Server) -> None:
    """Have servers stop side by side: each takes a second."""
    for server in started:
        server.running.process.terminate()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with (
        run_legacy(STOCK, tmp_path_factory.mktemp(STOCK)) as stock,
        run_legacy(OURS, tmp_path_factory.mktemp(OURS)) as ours,
    ):
        yield stock, ours
        stop(stock, ours)


def on_both(check: Callable[[T], R], both: tuple[T, T]) -> list[R]:
    """Run a check of each server, side by side."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(check, both))


def compare(pair: Pair, case: Case) -> None:
    stock, ours = (server.shows(case) for server in pair)
    for better in BETTER:
        if better.when(case):
            assert stock.end == (better.stock or stock.end), better.why
            stock = better.instead(case, stock)
            assert stock.end == (better.ours or stock.end), better.why
    assert ours == stock


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_workers_do_the_same(pair: Pair, case: Case) -> None:
    compare(pair, case)


@pytest.mark.parametrize("better", BETTER, ids=lambda better: better.why[:50])
def test_each_difference_is_among_the_cases(better: Better) -> None:
    assert any(map(better.when, CASES.values()))


# One connection, looked at more closely.


numbers = count()


@pytest.fixture
def name() -> str:
    """The name of a stream that no other test has."""
    return f"stream{next(numbers)}"


@pytest.fixture(params=[STOCK, OURS])
def server(request: pytest.FixtureRequest, pair: Pair) -> Server:
    return pair[[STOCK, OURS].index(request.param)]


@pytest.fixture
def ours(pair: Pair) -> Server:
    return pair[1]


def get(running: Running, path: str, *fields: str, method: str = "GET") -> tuple[Head, Body]:
    with connect(running) as raw:
        return raw.request(method, path, *fields), raw.read_all()


def let(running: Running, name: str, times: int = 1) -> None:
    """Let the stream `name` go on."""
    assert get(running, f"/let?name={name}&times={times}")[1] == Body(b"let", True)


def answers(raw: Raw) -> None:
    """Assert that the connection still serves, and that nothing is left over on it."""
    assert raw.request("GET", "/last").status == 200
    assert raw.read_all() == Body(b"last", True)


def finish(raw: Raw) -> None:
    """The same, and wait until the server is done with the connection and has logged it."""
    raw.ask("GET", "/last", "Connection: close")
    assert raw.read_head().status == 200
    assert raw.read_all() == Body(b"last", True)
    assert raw.read_rest() == b""


def test_an_application_finds_the_drain_in_its_environ_and_else_what_it_knows(pair: Pair) -> None:
    stock, ours = (set(get(server.running, "/keys")[1].data.split()) for server in pair)
    assert ours - stock == {
        b"vento_wsgi.connection",
        b"vento_wsgi.drain",
        b"vento_wsgi.park",
    }
    assert stock <= ours


def test_one_connection_carries_all_kinds_of_responses(pair: Pair) -> None:
    wrong = [better for better in BETTER if better.stock]
    cases = [case for case in bodies() if case.says(body="|".join(BODIES))]
    cases = [case for case in cases if not any(better.when(case) for better in wrong)]
    assert len(cases) > 100
    shown: list[list[object]] = []
    for server in pair:
        with connect(server.running) as raw:
            shown.append([])
            for case in cases:
                raw.send(case.data)
                head = raw.read_head()
                fields = [line for line in head.headers if line[0] != "Date"]
                shown[-1].append((case.name, head.status, fields, raw.read_all()))
                answers(raw)
    assert shown[1] == shown[0]


@pytest.mark.parametrize(
    ("method", "status"), [("GET", "200 OK"), ("HEAD", "200 OK"), ("GET", "304 Same")]
)
def test_an_empty_chunk_sends_the_head_while_the_source_waits(
    server: Server, name: str, method: str, status: str
) -> None:
    query = f"name={name}&opening=yes&items=1&status={status.replace(' ', '+')}"
    with connect(server.running) as raw:
        assert raw.request(method, f"/steps?{query}").status == int(status[:3])
        let(server.running, name)
        raw.read_all()
        answers(raw)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 None")])
def test_a_source_without_end_does_not_keep_a_head_without_body_back(
    server: Server, name: str, method: str, status: str
) -> None:
    let(server.running, name)
    with connect(server.running) as raw:
        path = f"/steps?name={name}&items=2&status={status.replace(' ', '+')}"
        assert raw.request(method, path).status == int(status[:3])
        let(server.running, name)
        answers(raw)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_each_chunk_leaves_before_the_next_is_made(server: Server, name: str, version: str) -> None:
    with connect(server.running) as raw:
        raw.send(ask("GET", f"/steps?name={name}&items=3&opening=yes", version=version))
        head = raw.read_head()
        assert ("Transfer-Encoding" in head.headers) == (version == "1.1")
        for number in range(3):
            let(server.running, name)
            piece = raw.read_piece()
            assert piece is not None
            assert piece.data == b"item %d\n" % number
        assert raw.read_all() == Body(b"", complete=True)
        if version == "1.1":
            answers(raw)
        else:
            assert raw.read_rest() == b""


def test_a_client_that_leaves_ends_its_generator_at_the_next_write(
    server: Server, name: str
) -> None:
    with connect(server.running) as raw:
        raw.request("GET", f"/steps?name={name}&opening=yes")
        reset_on_close(raw.sock)
    let(server.running, name, times=3)
    eventually(lambda: f"{name}: GeneratorExit" in server.journal.read_text())


def test_head_chunk_and_end_of_a_response_arrive_together(ours: Server) -> None:
    with connect(ours.running) as raw:
        for chunks in ("5", "10000") * 10:
            raw.send(make(body="list", chunks=chunks).data)
            assert raw.sock.recv(1 << 16).endswith(b"\r\n0\r\n\r\n")


PACKETS = """
import socket
def post_worker_init(worker):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind({path!r})
    listener.listen()
    worker.sockets.append(listener)
"""


@pytest.mark.parametrize("length", ["", "15"])
@pytest.mark.parametrize("body", ["list", "generator", "own", "file"])
def test_no_response_ends_with_a_send_of_nothing(tmp_path: Path, body: str, length: str) -> None:
    """Here each send is a message of its own, which the next read gives, be it empty."""
    settings, path = tmp_path / "settings.py", str(tmp_path / "socket")
    settings.write_text(PACKETS.format(path=path))
    request = make(body=body, chunks="5,10", **named(length=length)).data
    with (
        run_legacy(OURS, tmp_path, f"-c={settings}"),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
    ):
        client.settimeout(30)
        client.connect(path)
        for _ in range(3):
            client.sendall(request)
            end = content(0, 15)[-5:] if length else b"0\r\n\r\n"
            said = client.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 200")
            while not said.endswith(end):
                more = client.recv(1 << 16)
                assert more
                said += more


@pytest.mark.parametrize("body", ["list", "generator", "write", "memory", "file"])
@pytest.mark.parametrize("length", ["", "8000010"])
def test_a_body_that_the_socket_does_not_take_at_once_arrives_whole(
    server: Server, body: str, length: str
) -> None:
    query = {"body": body, "chunks": "8000000,10", "block": "9000000", **named(length=length)}
    with connect(server.running) as raw:
        for _ in range(2):
            raw.send(make(**query).data)
            raw.read_head()
            assert raw.read_all() == Body(content(0, 8_000_010), complete=True)
        answers(raw)


# The access log.


@pytest.fixture(scope="module")
def vento(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our own application on our own worker."""
    tmp = tmp_path_factory.mktemp("vento")
    (tmp / "data.bin").write_bytes(content(0, 3_000_000))
    options = [f"--access-logfile={tmp / 'access'}", f"--access-logformat={ACCESS}"]
    options += ["--no-control-socket", "--keep-alive=20"]
    with serve(
        OURS, "apps.gunicorn_app:app", tmp=tmp, env={"FILES": str(tmp)}, options=options
    ) as running:
        yield Server(running, tmp)


@pytest.mark.parametrize(
    ("request_line", "field"),
    [
        ("GET /hello", ""),
        ("HEAD /hello", ""),
        ("GET /kept", ""),
        ("HEAD /kept", ""),
        ("GET /fail/name", ""),
        ("GET /fail/name?type=text/event-stream", ""),
        ("GET /early/name", ""),
        ("GET /announced?says=10&sends=10", ""),
        ("GET /announced?says=10&sends=7", ""),
        ("GET /announced?says=10&sends=13", ""),
        ("GET /announced?says=0&sends=0", ""),
        ("GET /file/data.bin", ""),
        ("HEAD /file/data.bin", ""),
        ("GET /file/data.bin", "Range: bytes=1000-1999999"),
        ("GET /file/data.bin", "Range: bytes=5-"),
        ("GET /file/data.bin", "Range: bytes=0-9,1000-2000000"),
        ("GET /file/data.bin", "Range: bytes=3000000-"),
        ("GET /file/data.bin", "If-None-Match: *"),
        ("GET /nowhere", ""),
        ("OPTIONS /hello", ""),
    ],
)
def test_the_access_log_tells_the_status_and_the_bytes_of_the_body(
    vento: Server, request_line: str, field: str
) -> None:
    method, path = request_line.split(" ")
    vento.new_lines(vento.access)
    with connect(vento.running) as raw:
        head = raw.request(method, path, *filter(None, [field]), "Connection: close")
        body = raw.read_all()
        assert raw.read_rest() == b""
    if field.startswith("Range") and head.status == 206 and "," not in field:
        start, stop = re.findall(r"\d+", head.headers["Content-Range"])[:2]
        assert body == Body(content(int(start), int(stop) + 1), complete=True)
    path, _, query = path.partition("?")
    assert vento.new_lines(vento.access) == [
        f"{method} {path} {query} {head.status} {len(body.data)}"
    ]


# Files.


def test_a_file_is_sent_without_being_read(ours: Server) -> None:
    ours.new_lines(ours.journal)
    with connect(ours.running) as raw:
        raw.send(make(body="noted file", chunks="3000000", length="3000000").data)
        raw.read_head()
        assert raw.read_all() == Body(content(0, 3_000_000), complete=True)
        answers(raw)
    assert ours.new_lines(ours.journal) == ["file closed"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Same")])
def test_a_file_that_is_not_sent_is_not_read(server: Server, method: str, status: str) -> None:
    server.new_lines(server.journal)
    with connect(server.running) as raw:
        query = {"body": "noted file", "chunks": "3000000", "length": "3000000"}
        raw.send(make(method=method, status=status, **query).data)
        assert raw.read_head().headers["Content-Length"] == "3000000"
        answers(raw)
    assert server.new_lines(server.journal) == ["file closed"]


def test_without_sendfile_a_file_is_read(tmp_path: Path) -> None:
    with run_legacy(OURS, tmp_path, "--no-sendfile") as server, connect(server.running) as raw:
        raw.send(make(body="noted file", chunks="3000000", length="3000000").data)
        raw.read_head()
        assert raw.read_all() == Body(content(0, 3_000_000), complete=True)
        raw.send(make(body="file at 7", chunks="9,11", length="10").data)
        raw.read_head()
        assert raw.read_all() == Body(content(7, 17), complete=True)
        finish(raw)
        read, *_, closed = server.new_lines(server.journal)
        assert (read, closed) == ("file read", "file closed")
        access = server.new_lines(server.access)
        assert access[-3].endswith("length=3000000 200 3000000")
        assert access[-2].endswith("length=10 200 10")


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"),
        ],
        check=True,
        capture_output=True,
    )
    with path.open("ab") as both:
        both.write(Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture(scope="module")
def secure_pair(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    context = ssl.create_default_context(cafile=str(certificate))
    plain = connect

    def secure(running: Running, timeout: float = 10) -> Raw:
        raw = plain(running, timeout)
        try:
            raw.sock = context.wrap_socket(raw.sock, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise
        return raw

    options = (f"--certfile={certificate}", f"--keyfile={certificate}")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(servers, "connect", secure)
            pair = [
                stack.enter_context(run_legacy(name, tmp_path_factory.mktemp(name), *options))
                for name in (STOCK, OURS)
            ]
        for server in pair:
            server.connect = secure
        yield pair[0], pair[1]
        stop(*pair)


def secured() -> Iterator[Case]:
    """A part of the cases; without files, which go through the same writes here."""
    for case in bodies():
        if case.says(chunks="|0|5,0,3|100000,10000,100000"):
            yield case
    for case in failures():
        if case.says(error="exception|os|timeout"):
            yield case
    for name in ("a length", "a long length", "chunks", "large chunks", "a bad size"):
        lines, data = SENT[name]
        for how in ("all", "", "4"):
            yield make(lines, method="POST", body="list", chunks="5,3", read=how).sending(data)


@pytest.mark.parametrize(
    "case", [case for case in secured() if "file" not in case.name], ids=lambda case: case.name
)
def test_both_workers_do_the_same_over_tls(secure_pair: Pair, case: Case) -> None:
    compare(secure_pair, case)


def test_a_file_arrives_whole_over_tls(secure_pair: Pair) -> None:
    for server in secure_pair:
        server.new_lines(server.access)
        with server.connect(server.running) as raw:
            for body, chunks, length in (
                ("file", "8000000", "8000000"),
                ("file", "8000000", ""),
                ("file at 7", "9,11", "10"),
                ("file", "", ""),
            ):
                raw.send(make(body=body, chunks=chunks, **named(length=length)).data)
                raw.read_head()
                start = 7 if body == "file at 7" else 0
                stop = start + int(length or chunks or 0)
                assert raw.read_all() == Body(content(start, stop), complete=True)
            finish(raw)
        sent = [line.split()[-1] for line in server.new_lines(server.access)]
        assert sent == ["8000000", "8000000", "10", "0", "4"]


# Connections that wait.


HOOKS = """
import os

def note(what):
    with open(os.environ["HOOKS"], "a") as notes:
        notes.write(what + "\\n")

def pre_request(worker, req):
    note(f"before {req.method} {req.uri}")
    if "refused" in req.uri:
        raise RuntimeError("refused")

def post_request(worker, req, environ, resp):
    note(f"after {req.method} {req.uri} {environ.get('PATH_INFO')} {resp and resp.status}")
    if "failing-hook" in req.uri:
        raise RuntimeError("the hook fails")

def post_worker_init(worker):
    note("worker begins")

def worker_exit(server, worker):
    note("worker ends")

def child_exit(server, worker):
    note("child ends")
"""


HOOKED = [
    make(body="list", chunks="5"),
    make(body="file", chunks="5", length="5"),
    make(method="HEAD", body="own", chunks="5"),
    make(body="own", chunks="5", fail="call"),
    make(body="own", chunks="5,3", fail="mid"),
    make(body="own", chunks="5,3", fail="close"),
    make(body="own", chunks="5,3", refused="yes"),
    make(body="list", chunks="5", **{"failing-hook": "yes"}),
    Case("no request", HEADS["garbage"], ["GET"]),
]


def test_the_hooks_are_called_as_by_gunicorns_worker(tmp_path: Path) -> None:
    def noted(name: str) -> list[str]:
        tmp = tmp_path / name
        tmp.mkdir()
        (tmp / "hooks.py").write_text(HOOKS)
        env = {"HOOKS": str(tmp / "noted")}
        options = ("-c", str(tmp / "hooks.py"), "--keep-alive=0")
        with run_legacy(name, tmp, *options, env=env) as server:
            for case in HOOKED:
                show = server.shows(case)
                assert show.end in ("closed", "broken off")
                assert "Connection: close" in show.answers[0].fields
        return (tmp / "noted").read_text().splitlines()

    stock, ours = on_both(noted, (STOCK, OURS))
    assert ours == stock
    assert stock[0] == "worker begins"
    assert stock[-2:] == ["worker ends", "child ends"]
    assert {
        "before GET /make?body=list&chunks=5",
        "after GET /make?body=list&chunks=5 /make 200 OK",
        "after GET /make?body=own&chunks=5&fail=call /make None",
        "after GET /make?body=own&chunks=5,3&refused=yes None None",
    } <= set(stock)


KEEPALIVE = 1.0


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Servers that soon close connections that wait."""
    option = f"--keep-alive={KEEPALIVE:.0f}"
    with (
        run_legacy(STOCK, tmp_path_factory.mktemp("brief"), option) as stock,
        run_legacy(OURS, tmp_path_factory.mktemp("brief"), option) as ours,
    ):
        yield stock, ours
        stop(stock, ours)


def until_readable(raw: Raw) -> Iterator[None]:
    """Something to do every now and then until the server says something or closes."""
    for _ in range(200):
        if select.select([raw.sock], [], [], 0.05)[0]:
            return
        yield
    raise AssertionError("the connection stays open")


def test_a_connection_without_a_request_is_closed_when_its_time_is_up(brief: Pair) -> None:
    def check(server: Server) -> None:
        start = time.monotonic()
        with connect(server.running) as fresh, connect(server.running) as used:
            answers(used)
            assert used.read_rest() == b""
            assert fresh.read_rest() == b""
        assert time.monotonic() - start >= KEEPALIVE

    on_both(check, brief)


def test_a_head_that_comes_too_slowly_is_not_waited_for(brief: Pair) -> None:
    def check(server: Server) -> None:
        start = time.monotonic()
        with connect(server.running) as raw:
            raw.send(b"GET / HTTP/1.1\r\nX-Slow: ")
            with suppress(ConnectionError):
                for _ in until_readable(raw):
                    raw.send(b"x")  # it goes on coming
                answer = raw.read_rest()
                late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
                assert answer.startswith(late if server.running.server == OURS else b"")
                assert (answer == b"") is (server.running.server == STOCK)
        assert time.monotonic() - start >= KEEPALIVE

    on_both(check, brief)


def test_a_request_that_is_sent_or_answered_for_longer_is_not_cut(brief: Pair, name: str) -> None:
    def check(server: Server) -> None:
        running = server.running
        with connect(running) as stream, connect(running) as upload:
            stream.request("GET", f"/steps?name={name}&items=2&opening=yes")
            upload.send(ask("POST", "/upload", "Content-Length: 10", body=b"01234"))
            eventually(lambda: "upload begins" in server.new_lines(server.journal))
            for number in range(2):
                with connect(running) as idle:
                    answers(idle)
                    assert idle.read_rest() == b""  # the time is up
                let(running, name)
                piece = stream.read_piece()
                assert piece is not None
                assert piece.data == b"item %d\n" % number
            upload.send(b"56789")
            upload.read_head()
            assert upload.read_all() == Body(b"10", complete=True)
            assert stream.read_all() == Body(b"", complete=True)
            answers(stream)
            answers(upload)

    on_both(check, brief)


def test_a_connection_that_is_used_again_and_again_is_kept(brief: Pair) -> None:
    def check(server: Server) -> None:
        with connect(server.running) as raw, connect(server.running) as idle:
            answers(idle)
            for _ in until_readable(idle):
                answers(raw)
            answers(raw)

    on_both(check, brief)


# Workers that stop.


def test_a_worker_that_has_served_enough_is_replaced_without_loss(tmp_path: Path) -> None:
    def shown(name: str) -> list[str]:
        tmp = tmp_path / name
        tmp.mkdir()
        with run_legacy(name, tmp, "--max-requests=8") as server:
            running = server.running
            process = int(get(running, "/process")[1].data)  # the first was that of serve()
            with connect(running) as half, connect(running) as raw:
                answers(half)
                half.send(b"GET /last HTTP/1.1\r\n")
                connections = [""]
                while connections[-1] != "close":
                    connections.append(raw.request("GET", "/last").headers["Connection"])
                    assert raw.read_all() == Body(b"last", complete=True)
                assert raw.read_rest() == b""
                # what was begun before the worker was told to stop is still answered
                half.send(b"Host: test\r\n\r\n")
                assert half.read_head().headers["Connection"] == "close"
                assert half.read_all() == Body(b"last", complete=True)
                assert half.read_rest() == b""
            eventually(lambda: gone(process), explain=running.log)
            assert int(get(running, "/process")[1].data) != process
            assert "Traceback" not in running.log()
        return connections

    stock, ours = on_both(shown, (STOCK, OURS))
    assert ours == stock
    assert len(stock) == 6


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_connection_that_waits_does_not_hold_a_worker_that_stops(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    options = ("--graceful-timeout=600", f"--bind=unix:{address}")
    with run_legacy(OURS, tmp_path, *options) as server:
        process = int(get(server.running, "/process")[1].data)
        with ExitStack() as stack:
            waiting = [stack.enter_context(connect(server.running)) for _ in range(5)]
            for _ in range(2):
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(stack.enter_context(Raw(sock, server.running)))
                sock.settimeout(30)
                sock.connect(address)
            for raw in waiting:
                answers(raw)
            os.kill(process, signal.SIGTERM)
            for raw in waiting:
                assert raw.read_rest() == b""
        eventually(lambda: gone(process), explain=server.running.log)
        answer, _ = get(server.running, "/last")  # the next one serves
        assert answer.status == 200


# Frameworks.


ZIP = content(0, 200_000)


@contextmanager
def framework(server: str, target: str, tmp: Path) -> Iterator[Running]:
    file = tmp / "large-file.zip"
    file.write_bytes(ZIP)
    options = ["--no-control-socket", "--keep-alive=20"]
    with serve(server, target, tmp=tmp, env={"FILE": str(file)}, options=options) as running:
        yield running


LATER = b"an item\n"
FRAMEWORK: list[tuple[bytes, int, bytes]] = [
    (ask("GET", "/"), 200, b"Hello, World!"),
    (ask("HEAD", "/"), 200, b""),
    (ask("GET", "/stream?items=3&word=a"), 200, b"a 0\na 1\na 2\n"),
    (ask("GET", "/stream?items=0&word=a"), 200, b""),
    (ask("HEAD", "/stream?items=3&word=a"), 200, b""),
    (ask("GET", "/file"), 200, ZIP),
    (ask("HEAD", "/file"), 200, b""),
    (
        ask(
            *("POST", "/form?b=2", "Content-Length: 7"),
            *("Content-Type: application/x-www-form-urlencoded",),
            body=b"a=1&a=2",
        ),
        200,
        b'{"args":{"b":"2"},"form":{"a":["1","2"]}}',
    ),
    (ask("POST", "/upload", "Content-Length: 100000", body=b"x" * 100_000), 200, b"100000"),
    (
        ask("POST", "/upload", "Transfer-Encoding: chunked", body=chunked(b"x" * 70_000, b"y")),
        *(200, b""),  # Django takes it for an empty one
    ),
    (ask("GET", "/nowhere"), 404, b"Not Found"),
    (ask("GET", "/fail"), 500, b"Server Error"),
    (ask("GET", "/none"), 204, b""),
    (ask("GET", "/", version="1.0"), 200, b"Hello, World!"),
    (ask("GET", "/stream?items=3&word=a", version="1.0"), 200, b"a 0\na 1\na 2\n"),
    (ask("GET", "/fail-later"), 200, LATER),
]


@pytest.mark.parametrize("target", ["flask_app:app", "django_app:app"])
def test_frameworks_run_unmodified_and_do_the_same(target: str, tmp_path: Path) -> None:
    def shown(name: str) -> list[Seen]:
        (tmp_path / name).mkdir()
        with framework(name, target, tmp_path / name) as running:
            return [shows(running, *row) for row in FRAMEWORK]

    def shows(running: Running, data: bytes, status: int, body: bytes) -> Seen:
        with connect(running) as raw:
            raw.send(data + ask("GET", "/", "Connection: close"))
            show = seen(raw.read_rest(), [data.partition(b" ")[0].decode()])
        answer = show.answers[0]
        assert answer.status.split(" ")[1] == str(status)
        assert body in answer.body
        assert answer.complete == (body != LATER)
        return show

    stock, ours = on_both(shown, (STOCK, OURS))
    assert ours == stock
