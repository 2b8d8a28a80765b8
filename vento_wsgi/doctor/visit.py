"""Visit: one request, and what comes back with the time of each arrival.

HTTP libraries wait until there is as much as they were asked for, and hide what the doctor is
here to see: what came together, and whether a body ended or broke off. So this reads the socket
itself; of HTTP/1.1 it knows the framing of bodies (RFC 9112, section 6.3), and nothing else.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..exceptions import NotExamined

__all__ = ["Answer", "Arrival", "Place", "Visit"]

LONGEST_HEAD = 64 * 1024
"""Bytes: twice what any server allows."""

CONNECT = 10.0
"""Seconds for a connection, TLS included."""

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
        except ValueError as error:
            raise NotExamined(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise NotExamined(f"{url!r} is no URL: write http://host/path or https://host/path")
        if parts.username is not None:
            raise NotExamined(
                "give a password as --header 'Authorization: Basic …', not in the URL"
            )
        tls = parts.scheme == "https"
        target = quote(parts.path or "/", _SAFE) + (
            f"?{quote(parts.query, _SAFE)}" if parts.query else ""
        )
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
        self, place: Place, method: str, fields: Iterable[str], *, insecure: bool = False
    ) -> None:
        self._place = place
        self._method = method
        self._buffer = b""
        self._body: _Body | None = None
        self.ended = ""
        self.head_at = self.end_at = 0.0
        self._socket = _connected(place, insecure)
        lines = [f"{method} {place.target} HTTP/1.1", f"Host: {place.authority}", *fields, "", ""]
        self.sent = time.monotonic()
        with suppress(OSError):  # what it has to say is read below
            self._socket.sendall("\r\n".join(lines).encode())

    def head(self, until: float) -> Answer | None:
        """The head; None if it has not come by `until`."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data = self._receive(until)
            if data is None:
                return None
            if not data or len(self._buffer) > LONGEST_HEAD:
                raise self._no_http()
            self._buffer += data
        self.head_at = time.monotonic()
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        match = _STATUS.fullmatch(first)
        if match is None:
            raise self._no_http(first)
        version, status, reason = match[1], int(match[2]), match[3] or ""
        if status < 200:
            return self.head(until)
        pairs = (line.partition(":") for line in lines)
        answer = Answer(
            version, status, reason, [(name, value.strip()) for name, _, value in pairs]
        )
        self._body = _framing(self._method, answer)
        return answer

    def arrivals(self, until: float) -> Iterator[Arrival]:
        """What comes of the body by `until`."""
        body = self._body
        assert body is not None
        data: bytes | None = self._buffer
        self._buffer = b""
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
        """How many bytes come after what should have been the end."""
        count = len(self._buffer)
        while data := self._receive(until):
            count += len(data)
        return count

    _reset = False

    def _receive(self, until: float) -> bytes | None:
        """What is there; empty at the end of the connection, None if nothing comes by `until`."""
        self._socket.settimeout(max(0.001, until - time.monotonic()))
        try:
            return self._socket.recv(1 << 16)
        except TimeoutError:
            return None
        except OSError:
            self._reset = True
            return b""

    def _no_http(self, line: str = "") -> NotExamined:
        where = f"{self._place.host}:{self._place.port}"
        if line or self._buffer:
            return NotExamined(f"{where} does not speak HTTP/1: {(line or self._buffer[:60])!r}")
        hint = "" if self._place.tls else "; does it speak https?"
        return NotExamined(f"{where} closed the connection without an answer{hint}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connected(place: Place, insecure: bool) -> socket.socket:
    where = f"{place.host}:{place.port}"
    try:
        plain = socket.create_connection((place.host, place.port), CONNECT)
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
        return context.wrap_socket(plain, server_hostname=place.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise NotExamined(
            f"TLS with {where}: {error.verify_message}; --insecure looks all the same"
        ) from None
    except OSError as error:
        plain.close()
        why = getattr(error, "reason", None) or error
        raise NotExamined(f"TLS with {where} failed: {why}; does it speak plain http?") from None


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
    by_close = False

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._trailers = False

    def take(self, data: bytes) -> bytes:
        self._buffer += data
        came = []
        while not self.whole:
            if self._left:
                piece = self._buffer[: self._left]
                came.append(piece)
                self._left -= len(piece)
                self._buffer = self._buffer[len(piece) :]
                if self._left:
                    break
                continue
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                break
            self._buffer = rest
            if self._trailers:
                self.whole = not line
            elif line:  # an empty one ends the chunk before
                try:
                    self._left = int(line.partition(b";")[0], 16)
                except ValueError:
                    raise NotExamined(f"a chunk of no size: {line[:60]!r}") from None
                self._trailers = not self._left
        return b"".join(came)


def _framing(method: str, answer: Answer) -> _Body:
    length = answer.get("Content-Length")
    if method == "HEAD" or answer.status in (204, 304):
        return _Sized(0)
    if answer.get("Transfer-Encoding").lower() == "chunked":
        return _Chunked()
    return _Sized(int(length)) if length.isascii() and length.isdigit() else _Body()
