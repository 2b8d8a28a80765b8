"""One HTTP request whose response is read with the time of each arrival.

HTTP libraries collect bytes until they have as many as the caller asked for. That hides what the
doctor needs to see: which bytes arrived together, and whether a body ended or broke off. So this
module reads the socket itself. It implements the message body framing of HTTP/1.1 (RFC 9112,
section 6.3) and nothing else of the protocol.

The server may be hostile or broken. Each wait has a deadline that more data does not extend, and
everything that is buffered before it can be checked (a head, a chunk header line, the trailers)
has a limit in bytes.
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

__all__ = ["Arrival", "Request", "ResponseHead", "Target"]

LONGEST_HEAD = 64 * 1024
"""Bytes of a head with its interim responses, and of trailers: twice what any server allows."""

LONGEST_LINE = 4096
"""Bytes of a chunk header line with its extensions; hyper and Node allow 16 KB for all of them."""

CONNECT = 10.0
"""Seconds to connect, at most: name resolution, TCP and TLS together."""

_LENGTH = re.compile("[0-9]{1,18}")
_CHUNK = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_STATUS = re.compile(r"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: (.*))?")
_SAFE = "/?#[]@!$&'()*+,;=:%~-._"


class Target(NamedTuple):
    """The target of a URL. path: path and query, as they stand in the request line."""

    url: str
    tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Parse a URL. Raises NotExamined."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            path = quote(parts.path or "/", _SAFE) + (
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
        return cls(url, tls, host, port or (443 if tls else 80), path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class ResponseHead(NamedTuple):
    """The head of a response. version: "1.0" or "1.1"."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        """All values of a header, joined by commas; "" if there are none."""
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def length(self) -> int | None:
        """The Content-Length. Raises NotExamined if it is invalid (RFC 9112, section 6.3)."""
        told = {value.strip() for value in self.get("Content-Length").split(",")}
        if told == {""}:
            return None
        (length,) = told if len(told) == 1 else ("",)
        if not _LENGTH.fullmatch(length):
            raise NotExamined(f"its Content-Length is invalid: {', '.join(told)!r}")
        return int(length)


class Arrival(NamedTuple):
    """Bytes of the body that one recv() returned. at: when, in seconds of monotonic()."""

    at: float
    data: bytes


class Request:
    """One request and its response. The constructor sends it. Use it in a ``with`` block.

    sent, head_at, end_at: times in seconds of monotonic(). ended: "whole" or "cut", or "" while
    the response goes on. All methods raise NotExamined if the server does not speak HTTP.
    """

    def __init__(
        self,
        target: Target,
        method: str,
        fields: Iterable[str],
        *,
        insecure: bool = False,
        patience: float = CONNECT,
    ) -> None:
        self._target = target
        self._method = method
        self._buffer = bytearray()
        self._response: ResponseHead | None = None
        self.ended = ""
        self.head_at = self.end_at = 0.0
        self._socket = _connected(target, insecure, patience)
        lines = [f"{method} {target.path} HTTP/1.1", f"Host: {target.authority}", *fields, "", ""]
        self.sent = time.monotonic()
        with suppress(OSError):  # the server may have responded early and closed: read that below
            self._socket.sendall("\r\n".join(lines).encode())

    def head(self, until: float) -> ResponseHead | None:
        """The head of the final response; None if it has not arrived by `until`."""
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
        self._response = ResponseHead(
            version, status, reason, [(name, value.strip()) for name, _, value in pairs]
        )
        return self._response

    def _raw_head(self, until: float, limit: int) -> bytes | None:
        """The bytes of the next head, with its empty line; None at `until`. limit: bytes."""
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
        """The parts of the body that arrive by `until`."""
        assert self._response is not None
        body = _framing(self._method, self._response)
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
        """The number of bytes that follow the end of the response. Stops counting at 1 MB."""
        count = len(self._buffer)
        while count < 1_000_000 and (data := self._receive(until)):
            count += len(data)
        return count

    _reset = False

    def _receive(self, until: float) -> bytes | None:
        """The next bytes; b"" at the end of the connection, None if none arrive by `until`."""
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
        return f"{self._target.host}:{self._target.port}"

    def _first_line(self) -> str:
        return self._buffer.partition(b"\r\n")[0].decode("latin-1")

    def _no_head(self) -> NotExamined:
        size = f"{LONGEST_HEAD // 1024} KB"
        return NotExamined(f"{self._where} sends {size} of heads, and no final response")

    def _no_http(self, line: str = "") -> NotExamined:
        if line or self._buffer:
            said = line[:60] or bytes(self._buffer[:60])
            return NotExamined(f"{self._where} does not speak HTTP/1: {said!r}")
        hint = "" if self._target.tls else "; does it speak https?"
        return NotExamined(f"{self._where} closed the connection without a response{hint}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connected(target: Target, insecure: bool, patience: float) -> socket.socket:
    until = time.monotonic() + patience
    where = f"{target.host}:{target.port}"
    try:
        plain = _dialled(_addresses(target, until), until)
    except (socket.gaierror, UnicodeError) as error:
        raise NotExamined(f"there is no host {target.host!r}: {error}") from None
    except ConnectionRefusedError:
        raise NotExamined(f"{where} refuses connections: nothing listens there") from None
    except OSError as error:
        raise NotExamined(f"no connection to {where}: {error}") from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not target.tls:
        return plain
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        plain.settimeout(max(0.001, until - time.monotonic()))  # for the whole handshake
        return context.wrap_socket(plain, server_hostname=target.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise NotExamined(
            f"TLS with {where}: {error.verify_message}; --insecure ignores that"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: the host is not a valid TLS server name
        plain.close()
        why = getattr(error, "reason", None) or error
        raise NotExamined(f"TLS with {where} failed: {why}; does it speak plain http?") from None


def _addresses(target: Target, until: float) -> list[Any]:
    """The addresses of a host. Raises OSError.

    getaddrinfo() has no timeout. So it runs in a daemon thread, which is abandoned if it takes
    too long.
    """
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
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
    """A connection to the first address that accepts one. Raises OSError."""
    failure: OSError = OSError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = (until - time.monotonic()) / (len(addresses) - number)  # an equal share for each
        try:
            dialled = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 is turned off on this machine
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
    """The decoder of a body that ends when the connection closes; subclasses know their end.

    whole: whether the end of the body was reached.
    """

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
    """The chunked coding (RFC 9112, section 7.1). Raises NotExamined if it is malformed."""

    by_close = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the current chunk that are still to come
        self._within = False  # the line end of the current chunk is still to come
        self._trailers: int | None = None  # bytes that the trailers may still have, once they begin

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
                    what = "a chunk header" if self._trailers is None else "trailers"
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
                raise NotExamined(f"a chunk is longer than its size: {self._line(at)!r}")
            self._within = False
        else:
            size = _CHUNK.fullmatch(self._buffer, at, end)
            if size is None:
                raise NotExamined(f"a chunk without a valid size: {self._line(at)!r}")
            self._left = int(size[1], 16)
            self._within = self._left > 0
            self._trailers = None if self._left else LONGEST_HEAD

    def _line(self, at: int) -> bytes:
        return bytes(self._buffer[at : at + 60])


def _framing(method: str, response: ResponseHead) -> _Body:
    if method == "HEAD" or response.status in (204, 304):
        return _Sized(0)
    if response.get("Transfer-Encoding").lower() == "chunked":
        return _Chunked()
    length = response.length
    return _Body() if length is None else _Sized(length)
