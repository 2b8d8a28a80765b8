"""The corpus: bytes that clients send on a connection, most of them for apps/legacy.py.

`HEADS` and `SENT` are the heads and the bodies of requests by name; `cases_of(*REQUESTS)` and
`cases_of(*RESPONSES)` are whole cases. Nothing here knows a server or a parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

LAST = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


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


RESPONSES = (bodies, statuses, versions, failures, fields, hints, pipelines)
"""Families of cases whose requests are plain; what the application does differs."""

REQUESTS = (sent, heads)
"""Families of cases whose requests differ, malformed ones among them: a corpus for parsers."""


def cases_of(*families: Callable[[], Iterator[Case]]) -> dict[str, Case]:
    """The cases of `families` by name."""
    cases: dict[str, Case] = {}
    for family in families:
        for case in family():
            assert case.name not in cases, case.name
            cases[case.name] = case
    return cases
