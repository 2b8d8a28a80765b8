"""Visit: one request, and what comes back with the time of each arrival.

HTTP libraries wait until there is as much as they were asked for, and hide what the doctor is
here to see: what came together, and whether a body ended or broke off. So this reads the socket
itself; of HTTP/1.1 it knows the framing of bodies (RFC 9112, section 6.3), and nothing else.

The server may be hostile or broken. So each wait has a deadline that no amount of data puts
off, and whatever is collected before it can be judged (a head, a line of chunk framing, the
trailers) has a limit in bytes.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from ...exceptions import NotExamined

__all__ = ["Answer", "Arrival", "Place", "Visit"]

LONGEST_HEAD = 64 * 1024
"""Bytes of a head, interim responses included, and of trailers: twice what any server allows."""

LONGEST_LINE = 4096
"""Bytes of the line before a chunk, its extensions included: hyper and Node allow 16 KB in all."""

CONNECT = 10.0
"""Seconds for a connection at most: the name's addresses, TCP and TLS together."""

_LENGTH = re.compile("[0-9]{1,18}")
_CHUNK = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_STATUS = re.compile(r"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: (.*))?")
_SAFE = "/?#[]@!$&'()*+,;=:%~-._"


class Place(NamedTuple):
    """Where a URL leads. target: path and query, as they are asked for."""

    url: str
    tls: bool
    host: str
    port: int
    target: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises NotExamined."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            target = quote(parts.path or "/", _SAFE) + (
                f"?{quote(parts.query, _SAFE)}" if parts.query else ""
            )
        except ValueError as error:
            raise NotExamined(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise NotExamined(f"{url!r} is no URL: write http://host/path or https://host/path")
        if parts.username is not None:
            raise NotExamined(
                "give a password as --header 'Authorization: Basic …', not in the URL"
            )
        tls = parts.scheme == "https"
        return cls(url, tls, host, port or (443 if tls else 80), target)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Answer(NamedTuple):
    """The head of a response. version: "1.0" or "1.1"."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        """All values of a header as one, empty if there is none."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def length(self) -> int | None:
        """Its Content-Length. Raises NotExamined if it is no number (RFC 9112, section 6.3)."""
        told = {value.strip() for value in self.get("Content-Length").split(",")}
        if told == {""}:
            return None
        (length,) = told if len(told) == 1 else ("",)
        if not _LENGTH.fullmatch(length):
            raise NotExamined(f"its Content-Length is no length: {', '.join(told)!r}")
        return int(length)


class Arrival(NamedTuple):
    """Bytes of the body that came at one time, in seconds of monotonic()."""

    at: float
    data: bytes


class Visit:
    """A request that is sent when this is made. Use it in a ``with``.

    sent, head_at, end_at: when, in seconds of monotonic(). ended: "whole" or "cut"; empty
    while the response goes on. Raises NotExamined where there is no HTTP.
    """

    def __init__(
        self,
        place: Place,
        method: str,
        fields: Iterable[str],
        *,
        insecure: bool = False,
        patience: float = CONNECT,
    ) -> None:
        self._place = place
        self._method = method
        self._buffer = bytearray()
        self._answer: Answer | None = None
        self.ended = ""
        self.head_at = self.end_at = 0.0
        self._socket = _connected(place, insecure, patience)
        lines = [f"{method} {place.target} HTTP/1.1", f"Host: {place.authority}", *fields, "", ""]
        self.sent = time.monotonic()
        with suppress(OSError):  # what it has to say is read below
            self._socket.sendall("\r\n".join(lines).encode())

    def head(self, until: float) -> Answer | None:
        """The head of the final response; None if it has not come by `until`."""
        left = LONGEST_HEAD
        while True:
            raw = self._raw_head(until, left)
            if raw is None:
                return None
            left -= len(raw)
            self.head_at = time.monotonic()
            first, *lines = raw[:-4].decode("latin-1").split("\r\n")
            match = _STATUS.fullmatch(first)
            if match is None:
                raise self._no_http(first)
            version, status, reason = match[1], int(match[2]), match[3] or ""
            if status >= 200:
                break
        pairs = (line.partition(":") for line in lines)
        self._answer = Answer(
            version, status, reason, [(name, value.strip()) for name, _, value in pairs]
        )
        return self._answer

    def _raw_head(self, until: float, limit: int) -> bytes | None:
        """A head as it came, its empty line included."""
        looked = 0
        while (end := self._buffer.find(b"\r\n\r\n", looked)) < 0:
            looked = max(0, len(self._buffer) - 3)
            if len(self._buffer) > limit:
                raise self._no_head() if _STATUS.match(self._first_line()) else self._no_http()
            data = self._receive(until)
            if data is None:
                return None
            if not data:
                raise self._no_http()
            self._buffer += data
        if end > limit:
            raise self._no_head()
        raw = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        return raw

    def arrivals(self, until: float) -> Iterator[Arrival]:
        """What comes of the body by `until`."""
        assert self._answer is not None
        body = _framing(self._method, self._answer)
        data: bytes | None = bytes(self._buffer)
        self._buffer.clear()
        while data is not None:
            came = body.take(data)
            now = time.monotonic()
            if came:
                yield Arrival(now, came)
            if body.whole:
                self.ended, self.end_at = "whole", now
                return
            data = self._receive(until)
            if data == b"":
                self.ended = "whole" if body.by_close and not self._reset else "cut"
                self.end_at = time.monotonic()
                return

    def rest(self, until: float) -> int:
        """How many bytes come after what should have been the end; counts no more than 1 MB."""
        count = len(self._buffer)
        while count < 1_000_000 and (data := self._receive(until)):
            count += len(data)
        return count

    _reset = False

    def _receive(self, until: float) -> bytes | None:
        """What is there; empty at the end of the connection, None if nothing comes by `until`."""
        left = until - time.monotonic()
        if left <= 0:
            return None
        self._socket.settimeout(left)
        try:
            return self._socket.recv(1 << 16)
        except TimeoutError:
            return None
        except OSError:
            self._reset = True
            return b""

    @property
    def _where(self) -> str:
        return f"{self._place.host}:{self._place.port}"

    def _first_line(self) -> str:
        return self._buffer.partition(b"\r\n")[0].decode("latin-1")

    def _no_head(self) -> NotExamined:
        size = f"{LONGEST_HEAD // 1024} KB"
        return NotExamined(f"{self._where} sends {size} of heads, and no final response")

    def _no_http(self, line: str = "") -> NotExamined:
        if line or self._buffer:
            said = line[:60] or bytes(self._buffer[:60])
            return NotExamined(f"{self._where} does not speak HTTP/1: {said!r}")
        hint = "" if self._place.tls else "; does it speak https?"
        return NotExamined(f"{self._where} closed the connection without an answer{hint}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connected(place: Place, insecure: bool, patience: float) -> socket.socket:
    until = time.monotonic() + patience
    where = f"{place.host}:{place.port}"
    try:
        plain = _dialled(_addresses(place, until), until)
    except (socket.gaierror, UnicodeError) as error:
        raise NotExamined(f"there is no host {place.host!r}: {error}") from None
    except ConnectionRefusedError:
        raise NotExamined(f"{where} refuses connections: nothing listens there") from None
    except OSError as error:
        raise NotExamined(f"no connection to {where}: {error}") from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not place.tls:
        return plain
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        plain.settimeout(max(0.001, until - time.monotonic()))  # for the handshake as a whole
        return context.wrap_socket(plain, server_hostname=place.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise NotExamined(
            f"TLS with {where}: {error.verify_message}; --insecure looks all the same"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: of a name that TLS cannot ask for
        plain.close()
        why = getattr(error, "reason", None) or error
        raise NotExamined(f"TLS with {where} failed: {why}; does it speak plain http?") from None


def _addresses(place: Place, until: float) -> list[Any]:
    """The addresses of a host. Raises OSError.

    The C library asks name servers for as long as it likes, so it does that in a thread, which
    is left behind if it takes too long.
    """
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if not found:
        raise TimeoutError("name servers do not answer")
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def _dialled(addresses: list[Any], until: float) -> socket.socket:
    """A connection to the first address that takes one. Raises OSError."""
    failure: OSError = OSError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = (until - time.monotonic()) / (len(addresses) - number)  # some for each
        try:
            dialled = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 is turned off here
            failure = error
            continue
        dialled.settimeout(max(0.001, left))
        try:
            dialled.connect(address)
        except OSError as error:
            dialled.close()
            failure = error
        else:
            return dialled
    raise failure


class _Body:
    """A body that ends with the connection; its kin know their end."""

    by_close = True
    whole = False

    def take(self, data: bytes) -> bytes:
        return data


class _Sized(_Body):
    by_close = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.whole = not length

    def take(self, data: bytes) -> bytes:
        data = data[: self._left]
        self._left -= len(data)
        self.whole = not self._left
        return data


class _Chunked(_Body):
    """Raises NotExamined where a chunk does not begin or end as RFC 9112 section 7.1 has it."""

    by_close = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # of a chunk
        self._within = False  # a chunk, its line end included
        self._trailers: int | None = None  # how many bytes of them may come

    def take(self, data: bytes) -> bytes:
        self._buffer += data
        came, at = [], 0
        while not self.whole:
            if self._left:
                piece = bytes(self._buffer[at : at + self._left])
                came.append(piece)
                self._left -= len(piece)
                at += len(piece)
                if self._left:
                    break
            limit = LONGEST_LINE if self._trailers is None else self._trailers
            end = self._buffer.find(b"\r\n", at, at + limit + 2)
            if end < 0:
                if len(self._buffer) - at > limit:
                    what = "the line of a chunk" if self._trailers is None else "trailers"
                    raise NotExamined(f"{what} without an end: {self._line(at)!r}")
                break
            self._take_line(at, end)
            at = end + 2
        del self._buffer[:at]
        return b"".join(came)

    def _take_line(self, at: int, end: int) -> None:
        if self._trailers is not None:
            self._trailers -= end + 2 - at
            self.whole = end == at
        elif self._within:
            if end != at:
                raise NotExamined(f"a chunk goes on after its size: {self._line(at)!r}")
            self._within = False
        else:
            size = _CHUNK.fullmatch(self._buffer, at, end)
            if size is None:
                raise NotExamined(f"a chunk of no size: {self._line(at)!r}")
            self._left = int(size[1], 16)
            self._within = self._left > 0
            self._trailers = None if self._left else LONGEST_HEAD

    def _line(self, at: int) -> bytes:
        return bytes(self._buffer[at : at + 60])


def _framing(method: str, answer: Answer) -> _Body:
    if method == "HEAD" or answer.status in (204, 304):
        return _Sized(0)
    if answer.get("Transfer-Encoding").lower() == "chunked":
        return _Chunked()
    length = answer.length
    return _Body() if length is None else _Sized(length)
