"""Reading: gunicorn's request parser, at less cost, and with a limit on each wait for a client.

What is a request, and what is refused, is gunicorn's to say. Here are the rules of RFC 9112 that
it leaves out (the version, the form of the target, Host), and the waits:

    idle        the first byte of a request      gunicorn's keepalive, then the connection closes
    the head    from its first byte to its end   RECEIVE_TIMEOUT, or keepalive if that is less
    the body    only while it is waited for      RECEIVE_TIMEOUT for each MIN_RATE * RECEIVE_TIMEOUT
                                                 bytes; that much in all if nobody reads it
    TLS         the whole handshake              RECEIVE_TIMEOUT

A wait costs no timer. A greenlet that waits stands in Waits, and the ticker asks there.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from time import monotonic
from typing import Any

from gevent import getcurrent
from gevent.monkey import get_original
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from werkzeug.exceptions import ClientDisconnected

__all__ = ["Idle", "Parser", "Reader", "RequestBroken", "RequestTooSlow", "Settings", "Waits"]

RECEIVE_TIMEOUT = 60.0
"""Seconds, unless $VENTO_RECEIVE_TIMEOUT says otherwise; 0 is off. nginx's
client_header_timeout and client_body_timeout are as long."""

MIN_RATE = 500
"""Bytes a second that a body brings at least while it is waited for, on average over
RECEIVE_TIMEOUT. Apache's mod_reqtimeout asks for the same by default."""


class RequestBroken(ClientDisconnected, ConnectionError):
    """Raised by reads of a request whose client has left before the request was whole.

    It is an OSError, which is what libraries expect of a broken "wsgi.input", and an
    HTTPException, which werkzeug's frameworks answer without logging it as a failure.
    """

    description = "The client left before its request was whole."


class RequestTooSlow(RequestBroken):
    """Raised by reads of a request that has not come in its time (RFC 9110, section 15.5.9)."""

    code = 408
    description = "The request did not come in its time."


class Idle(BaseException):
    """Thrown into a greenlet whose connection waits for a request, to close the connection."""


class Settings(Config):
    """A worker's configuration. Each request asks it some twenty times."""

    def __init__(self, cfg: Config) -> None:
        vars(self).update(vars(cfg))
        for name in self.settings:
            self._keep(name)

    def set(self, name: str, value: Any) -> None:
        super().set(name, value)
        self._keep(name)

    def _keep(self, name: str) -> None:
        vars(self)[name] = self.settings[name].get()


class Waits:
    """The greenlets of a worker that wait for bytes of their clients, and when to end a wait.

    idle: those that wait for the first byte of a request, in the order of `since`.
    receiving: those that wait for the rest of what has begun.
    keepalive: gunicorn's setting in seconds, 0 if connections are not kept. limit: seconds, for
    all other waits; infinity for no limit.
    """

    def __init__(self, keepalive: float, limit: float) -> None:
        self.idle: dict[Any, Reader] = {}
        self.receiving: dict[Any, Reader] = {}
        self.limit = limit
        self.longest_idle = keepalive or limit
        self.head_limit = min(self.longest_idle, limit)
        self.least = limit * MIN_RATE

    def tick(self, now: float) -> None:
        """Called by the ticker: end the waits that are over their limit."""
        for greenlet, reader in tuple(self.idle.items()):
            if now - reader.since <= self.longest_idle:
                break
            greenlet.throw(Idle)
        for greenlet, reader in tuple(self.receiving.items()):
            if reader.is_late(now) and self.receiving.get(greenlet) is reader:
                greenlet.throw(RequestTooSlow)

    def close_idle(self, before: float) -> None:
        """Close connections that wait between two requests, or are open since `before` unused."""
        poll = get_original("select", "poll")()
        for greenlet, reader in tuple(self.idle.items()):
            if not reader.kept and reader.since > before:
                continue
            poll.register(reader.sock, select.POLLIN)
            arrived = poll.poll(0)
            poll.unregister(reader.sock)
            if not arrived:
                greenlet.throw(Idle)


class Reader(SocketUnreader):
    """What a client sends.

    since: when the current wait began, in seconds of monotonic(); for a head, when the head
    began. begun: whether some of the next head has come. kept: whether there was a request
    before it. head: the first bytes of a head that is not whole yet. broken: why no more can be
    read of a body. host: the last Host that was found valid. trusted: whether the client is a
    proxy that may say who it speaks for, once that is known.
    """

    def __init__(self, sock: Any, waits: Waits) -> None:
        super().__init__(sock)
        self.since = monotonic()
        self.begun = self.kept = False
        self.head: bytearray | None = None
        self.broken: RequestBroken | None = None
        self.host: str | None = None
        self.trusted: bool | None = None
        self._waits = waits
        self._limit = waits.limit
        self._in_body = self._discards = self._late = False
        self._waited = 0.0  # seconds, for `_got` bytes of a body
        self._got = 0

    @property
    def asks_for_head(self) -> bool:
        """Whether the head that is being read belongs to a HEAD request."""
        return self.head is not None and _HEAD_REQUEST.match(self.head) is not None

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Raise RequestTooSlow out of the block, the TLS handshake, when it takes too long."""
        greenlet = getcurrent()
        self._waits.receiving[greenlet] = self
        try:
            yield
        finally:
            del self._waits.receiving[greenlet]

    def begin_head(self) -> None:
        """Called when the next bytes are those of a head."""
        self.since = monotonic()
        self.begun = self.buf.tell() > 0
        self.head = None
        self._in_body = self._late = False
        self._waited = 0.0
        self._limit = self._waits.head_limit

    def begin_body(self, *, discards: bool = False) -> None:
        """Called when the next bytes are those of a body. discards: nobody wants them."""
        self.head = None
        self._in_body, self._discards, self._late = True, discards, False
        self._waited, self._got = 0.0, 0
        self._limit = self._waits.limit

    def is_late(self, now: float) -> bool:
        """Whether the wait is over its limit. Asked by the ticker.

        Only the second time says so: in a loop that was late itself, the bytes may be there.
        """
        late = now - self.since + self._waited > self._limit
        was_late, self._late = self._late, late
        return late and was_late

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self._in_body:
            return self._body_chunk(size_hint)
        waiting = self._waits.receiving if self.begun else self._waits.idle
        data = self._receive(waiting, size_hint)
        if not self.begun:
            self.begun = True
            self.since = monotonic()
        return data

    def _body_chunk(self, size_hint: int | None) -> bytes:
        self.since = monotonic()
        try:
            data = self._receive(self._waits.receiving, size_hint)
        except RequestBroken as error:
            self.broken = error
            raise
        except OSError as error:
            self.broken = RequestBroken()
            raise self.broken from error
        if not data:
            # gunicorn would give the application a short body, as if it were whole
            self.broken = RequestBroken()
            raise self.broken
        self._waited += monotonic() - self.since
        self._got += len(data)
        if self._got >= self._waits.least and not self._discards:
            self._waited, self._got, self._late = 0.0, 0, False
        return data

    def _receive(self, waiting: dict[Any, Reader], size_hint: int | None) -> bytes:
        greenlet = getcurrent()
        waiting[greenlet] = self
        try:
            data: bytes = super().chunk(size_hint)  # type: ignore[call-arg]
        finally:
            del waiting[greenlet]
        return data


_HEAD_REQUEST = re.compile(rb"(?:\r\n)?(?:PROXY [^\r\n]*\r\n)?HEAD ")

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
"""A target in absolute-form (RFC 9112, section 3.2.2), with its authority."""

_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|\[v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]"
    r"|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::(?P<port>[0-9]*))?",
    re.ASCII,
)
"""uri-host [ ":" port ] (RFC 9110, section 7.2; RFC 3986, section 3.2.2)."""


def _is_host(value: str) -> bool:
    found = _HOST.fullmatch(value)
    if found is None or not found["ipv6"]:
        return found is not None
    try:
        IPv6Address(found["ipv6"])
    except ValueError:
        return False
    return True


def _is_authority(value: str) -> bool:
    """Whether `value` is a valid host, and not an empty one (RFC 9110, section 4.2.1)."""
    return value[:1] not in ("", ":") and _is_host(value)


class _Request(Request):
    body: Any
    unreader: Reader
    uri: str
    version: tuple[int, int]

    def parse(self, unreader: Any) -> bytes:
        unreader.begin_head()
        rest: bytes = super().parse(unreader)
        if self.version > (1, 1):
            # RFC 9110, section 6.2: an answer has the highest version that the server conforms to
            self.version = (1, 1)
        self._check_target(unreader)
        unreader.begin_body()
        return rest

    def read_into(self, unreader: Any, buf: bytearray, stop: bool | None = False) -> None:
        super().read_into(unreader, buf, stop)
        if unreader.head is None:
            unreader.head = buf

    def _check_target(self, unreader: Reader) -> None:
        """RFC 9112, sections 3.2 and 3.2.1 to 3.2.4. Raises InvalidHeader, InvalidRequestLine."""
        host = next((value for name, value in self.headers if name == "HOST"), None)
        if host is None:
            if self.version >= (1, 1):
                raise InvalidHeader("HOST", req=self)
        elif host != unreader.host:
            if not _is_host(host):
                raise InvalidHeader(f"HOST: {host}", req=self)
            unreader.host = host
        if self.method == "CONNECT":
            authority, colon, port = self.uri.rpartition(":")
            if not (colon and port and _is_authority(self.uri) and authority):
                raise InvalidRequestLine(self.uri)
            self.path = self.query = self.fragment = ""  # RFC 9112, section 3.3
        elif self.uri[0] != "/" and self.uri != "*":
            self._take_host_of_target(host)

    def _take_host_of_target(self, host: str | None) -> None:
        found = _ABSOLUTE.match(self.uri)
        if found is None or not _is_authority(found[1]):
            raise InvalidRequestLine(self.uri)
        if host == "":
            raise InvalidHeader("HOST: ", req=self)
        fields = [field for field in self.headers if field[0] != "HOST"]
        self.headers = [("HOST", found[1]), *fields]

    def should_close(self) -> bool:
        # where the next request begins is unknown once a body could not be read
        return self.body.failed or super().should_close()

    def _peer_is_trusted_proxy(self) -> bool:
        trusted = self.unreader.trusted
        if trusted is None:
            trusted = super()._peer_is_trusted_proxy()  # type: ignore[misc]
            self.unreader.trusted = trusted
        return trusted


class Parser(RequestParser):
    """The requests of one connection."""

    mesg_class = _Request
    unreader: Reader

    def __init__(self, cfg: Config, reader: Reader, address: Any) -> None:
        super().__init__(cfg, reader.sock, address)
        self.unreader = reader

    def __next__(self) -> Any:
        """The next request of the connection. Raises StopIteration if there is none."""
        if self.mesg is not None:
            self.unreader.kept = True
            self.unreader.begin_body(discards=True)
        return super().__next__()
