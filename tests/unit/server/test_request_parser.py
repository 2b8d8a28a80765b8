"""The fast path of the request parser finds what gunicorn's Python parser finds.

Heads are made by chance: mostly valid ones, and such with something odd about them. Each is read
by the fast path, and by gunicorn's classes alone: the environ has to be the same, or the error.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from hypothesis import given, settings
from hypothesis import strategies as st

from vento_wsgi.server.environ import connection_environ, worker_environ
from vento_wsgi.server.request_parser import FastParser, Reader, Requests, Waits
from vento_wsgi.server.response import WorkerResponse

pytest.importorskip("gunicorn_h1c")

CFG = Config()
FAST = FastParser.of(CFG)
SHARED = worker_environ(CFG)
PEER = ("127.0.0.1", 4321)
LISTENERS = (("127.0.0.1", 8000), "/run/site.sock")
OURS = ("wsgi.errors", "wsgi.input", "wsgi.early_hints", "wsgi.multithread")
"""Keys whose values are objects of each request, or differ on purpose."""

token = st.text("abcXYZ019-_.!~", min_size=1, max_size=8)
value = st.text([*map(chr, range(32, 127)), "\t", "\x80", "\xff"], max_size=20)
odd = st.sampled_from(["\x00", "\r", "\n", "\x7f", " ", "é", "\x1f", "_", ":"])
known = st.sampled_from(
    [
        *("Host: a", "Host: a:80", "Host:", "Host: [::1]:8", "host: a b", "HOST: a"),
        *("Content-Length: 0", "Content-Length: 3", "content-length: 03", "Content-Length: -1"),
        *("Content-Length: 1, 1", "Content-Length: ٣", "Transfer-Encoding: chunked"),
        *("Connection: close", "Connection: keep-alive", "connection: Upgrade", "Upgrade: x"),
        *("X-Forwarded-Proto: https", "X-Forwarded-Proto: http", "X-Forwarded-Ssl: on"),
        *("X-Forwarded-For: 1.2.3.4", "Expect: 100-continue", "Expect: tea"),
        *("Content-Type: a/b", "Cookie: a=1", "Cookie: b=2", "Script-Name: /x", "SCRIPT_NAME: /"),
        *("X_A: 1", "X-A: 1", "X-A: 2", "Proxy: x", " folded: x", "no colon", ": x", "a : x"),
    ]
)
made = st.builds("{}: {}".format, token, value)
fields = st.lists(st.one_of(known, known, made), max_size=8)
method = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "get", "G", "PURGE", "G#T"])
target = st.one_of(
    st.sampled_from(
        [
            *(
                "/",
                "//",
                "//a/b?c",
                "/a?b?c",
                "/a#b",
                "/a?b#c",
                "*",
                "a:80",
                "http://b/c?d",
                "/%41",
            ),
            *(
                "/%zz",
                "/%00",
                "/a;b",
                "/a:b",
                "/é",
                "/a b",
                "",
                "?",
                "/?",
                "/[",
                "//[::1]/",
                "/\x7f",
            ),
        ]
    ),
    st.builds("/{}".format, st.text([*map(chr, range(33, 127))], max_size=12)),
)
version = st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", ""])
ending = st.sampled_from(["\r\n"] * 8 + ["\n", "\r"])


@st.composite
def heads(draw: Any) -> bytes:
    end = draw(ending)
    lines = [" ".join([draw(method), draw(target), draw(version)]), *draw(fields)]
    if draw(st.integers(0, 3)):
        lines.insert(1, "Host: test")
    head = end.join([*lines, "", ""])
    if not draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(head)))
        head = head[:place] + draw(odd) + head[place:]
    if not draw(st.integers(0, 9)):
        head = "\r\n" + head
    rest: bytes = draw(st.sampled_from([b"", b"abc", b"GET / HTTP"]))
    whole: bytes = head.encode("latin-1", "replace") + rest
    return whole


class Source:
    """A socket that gives `pieces`, and then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def recv(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def read(pieces: list[bytes], listener: Any, *, fast: bool) -> Any:
    """What a request is to the application, and how much of the input is left; or the error."""
    sock: Any = Source(list(pieces))
    reader = Reader(sock, Waits(2, 60))
    shared = connection_environ(SHARED, sock, PEER, listener)
    requests = Requests(CFG, reader, PEER, listener, FAST if fast else None, shared)
    try:
        request, environ = requests.next()  # type: Any, Any
        if environ is None:
            _, environ = wsgi.create(
                request, Sink(), PEER, listener, CFG, response_class=WorkerResponse
            )
    except Exception as error:
        return type(error).__name__, str(error)
    except StopIteration:
        return "no more"
    body = None
    if "HTTP_TRANSFER_ENCODING" not in environ:
        try:
            body = request.body.read(3)
        except OSError as error:
            body = repr(error)
    found = {key: value for key, value in environ.items() if key not in OURS}
    found.pop("gunicorn.socket")
    rest = b"".join([reader.buf.getvalue(), *sock.pieces])
    about = request.headers, request.version, request.uri, request.path, request.query
    return found, body, rest, about, request.should_close(), request.scheme


def is_request(found: Any) -> bool:
    return isinstance(found[0], dict)


class Sink(socket.socket):
    """Takes the 100 Continue of a request."""

    def __init__(self) -> None:
        super().__init__()
        self.detach()
        self._sock = self  # as gevent has it

    def send(self, data: Any, *_: Any) -> int:
        return len(data)


@settings(max_examples=1500, derandomize=True)
@given(heads(), st.sampled_from(LISTENERS), st.integers(1, 40), st.booleans())
def test_the_fast_path_finds_what_gunicorn_finds(
    head: bytes, listener: Any, cut: int, whole: bool
) -> None:
    pieces = [head] if whole else [head[:cut], head[cut:]]
    pieces = [piece for piece in pieces if piece]
    found, expected = (read(pieces, listener, fast=fast) for fast in (True, False))
    if not whole and not is_request(found) and not is_request(expected):
        return  # what is wrong with half a head, gunicorn_h1c says by where it was cut
    assert found == expected


def test_the_common_request_takes_the_fast_path() -> None:
    sock: Any = Source([b"GET /a?b HTTP/1.1\r\nHost: test\r\nX-Forwarded-Proto: https\r\n\r\n"])
    shared = connection_environ(SHARED, sock, PEER, LISTENERS[0])
    reader = Reader(sock, Waits(2, 60))
    _, environ = Requests(CFG, reader, PEER, LISTENERS[0], FAST, shared).next()
    assert environ is not None
    assert environ["wsgi.url_scheme"] == "https"
