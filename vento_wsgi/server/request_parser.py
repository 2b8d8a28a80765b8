"""The request parser: gunicorn's, at less cost, and with a limit on each wait for a client.

gunicorn decides what a request is and what is refused. This module adds the rules of RFC 9112 that
gunicorn does not check (the version, the form of the target, Host), and limits these waits:

    idle        the first byte of a request      gunicorn's keepalive, then the connection closes
    the head    from its first byte to its end   RECEIVE_TIMEOUT, or keepalive if that is less
    the body    only while it is waited for      RECEIVE_TIMEOUT for each MIN_RATE * RECEIVE_TIMEOUT
                                                 bytes; that much in all if nobody reads it
    TLS         the whole handshake              RECEIVE_TIMEOUT

A wait needs no timer: a waiting greenlet registers in Waits, which the ticker checks.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from ipaddress import IPv6Address
from time import monotonic
from typing import Any

from gevent import getcurrent
from gevent.monkey import get_original
from gunicorn.config import Config
from gunicorn.http import message
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine
from gunicorn.http.message import (
    DEFAULT_MAX_HEADERFIELD_SIZE,
    MAX_HEADERS,
    MAX_REQUEST_LINE,
    Request,
)
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.util import unquote_to_wsgi_str
from werkzeug.exceptions import ClientDisconnected

__all__ = ["FastParser", "Idle", "Reader", "RequestBroken", "RequestTooSlow", "Requests", "Waits"]

RECEIVE_TIMEOUT = 60.0
"""Seconds; $VENTO_RECEIVE_TIMEOUT changes it, and 0 turns it off. nginx's client_header_timeout and
client_body_timeout have the same default."""

MIN_RATE = 500
"""The least bytes a second of a body while it is waited for, on average over RECEIVE_TIMEOUT.
Apache's mod_reqtimeout has the same default."""


class RequestBroken(ClientDisconnected, ConnectionError):
    """Raised by reads of a request whose client left before the request was complete.

    It is an OSError, which libraries expect of a broken "wsgi.input". It is also an HTTPException,
    so frameworks on werkzeug answer it and do not log it as a failure.
    """

    description = "The client left before its request was whole."


class RequestTooSlow(RequestBroken):
    """Raised by reads of a request that did not come in time (RFC 9110, section 15.5.9)."""

    code = 408
    description = "The request did not come in its time."


class Idle(BaseException):
    """Thrown into a greenlet that waits for a request, to close its connection."""


class Waits:
    """The greenlets of a worker that wait for bytes from their clients, and when to end a wait.

    idle: greenlets that wait for the first byte of a request, in the order of `since`.
    receiving: greenlets that wait for more of something that has begun.
    keepalive: gunicorn's setting in seconds; 0 if connections are not kept. limit: seconds for all
    other waits; infinity for no limit.
    """

    def __init__(self, keepalive: float, limit: float) -> None:
        self.idle: dict[Any, Reader] = {}
        self.receiving: dict[Any, Reader] = {}
        self.limit = limit
        self.longest_idle = keepalive or limit
        self.head_limit = min(self.longest_idle, limit)
        self.least = limit * MIN_RATE

    def tick(self, now: float) -> None:
        """Called by the ticker: end waits that are over their limit."""
        for greenlet, reader in tuple(self.idle.items()):
            if now - reader.since <= self.longest_idle:
                break
            greenlet.throw(Idle)
        for greenlet, reader in tuple(self.receiving.items()):
            if reader.is_late(now) and self.receiving.get(greenlet) is reader:
                greenlet.throw(RequestTooSlow)

    def close_idle(self, before: float) -> None:
        """Close connections that wait between two requests, or that opened before `before` and
        have had no request.
        """
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
    """Reads what a client sends.

    since: when the current wait began, in seconds of monotonic(); for a head, when the head
    began. begun: whether a part of the next head has come. kept: whether there was an earlier
    request on the connection. head: the first bytes of a head that is not complete yet.
    broken: why no more of a body can be read. host: the last Host that was found valid.
    trusted: whether the client is a proxy whose forwarded headers count; None if not known yet.
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
        """Whether the head that is being read is that of a HEAD request."""
        return self.head is not None and _HEAD_REQUEST.match(self.head) is not None

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Around the TLS handshake: RequestTooSlow is raised in it when it takes too long."""
        greenlet = getcurrent()
        self._waits.receiving[greenlet] = self
        try:
            yield
        finally:
            del self._waits.receiving[greenlet]

    def begin_head(self) -> None:
        """Called when the next bytes belong to a head."""
        self.since = monotonic()
        self.begun = self.buf.tell() > 0
        self.head = None
        self._in_body = self._late = False
        self._waited = 0.0
        self._limit = self._waits.head_limit

    def begin_body(self, *, discards: bool = False) -> None:
        """Called when the next bytes belong to a body. discards: they are read and thrown away."""
        self.head = None
        self._in_body, self._discards, self._late = True, discards, False
        self._waited, self._got = 0.0, 0
        self._limit = self._waits.limit

    def is_late(self, now: float) -> bool:
        """Whether the wait is over its limit. Called by the ticker.

        True only at the second late call: if the loop itself was late, the bytes may already be
        there at the first one.
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
            # otherwise gunicorn would give the application a short body as if it were complete
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
    """Whether `value` is a valid host and not empty (RFC 9110, section 4.2.1)."""
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
            # RFC 9110, section 6.2: the response has the highest version that the server supports
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
        # after a body that could not be read, the start of the next request is unknown
        return self.body.failed or super().should_close()

    def _peer_is_trusted_proxy(self) -> bool:
        trusted = self.unreader.trusted
        if trusted is None:
            trusted = super()._peer_is_trusted_proxy()  # type: ignore[misc]
            self.unreader.trusted = trusted
        return trusted


class FastRequest(_Request):
    """A request of the fast path. Attributes that are rarely used are made on demand."""

    fragment = ""
    must_close = False
    proxy_protocol_info: Any = None
    _expected_100_continue = False

    def __init__(
        self, parser: Requests, head: Any, method: str, path: str, query: str, option: str | None
    ) -> None:
        self.cfg = parser.cfg
        self.unreader = parser.unreader
        self.remote_addr = self.peer_addr = parser.source_addr
        self.req_number = parser.req_count
        self.method = method
        self.path = path
        self.query = query
        self.version = _VERSIONS[head.minor_version]
        self._head = head
        self._option = option  # of the connection

    @property
    def uri(self) -> str:  # type: ignore[override]
        return str(self._head.path, "latin-1")

    @cached_property
    def trailers(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return []

    @cached_property
    def headers(self) -> list[tuple[str, str]]:  # type: ignore[override]
        """Names in upper case and their values, in order, as in gunicorn's own requests."""
        return [
            (str(name, "latin-1").upper(), str(value, "latin-1"))
            for name, value in self._head.headers
        ]

    def should_close(self) -> bool:
        if self._option is not None and not (self.must_close or self.body.failed):
            option = self._option.lower().strip(" \t")
            if option in ("close", "keep-alive"):
                return bool(option == "close")
        return self.must_close or self.body.failed or self.version == (1, 0)


_VERSIONS = ((1, 0), (1, 1))
_PROTOCOLS = ("HTTP/1.0", "HTTP/1.1")

_METHODS = {
    name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
}
"""The methods of the fast path."""

_ORIGIN_FORM = re.compile(rb"(/[!\"$->@-~]*)(?:\?([!\"$-~]*))?")
"""A target in origin-form (RFC 9112, section 3.2.1) without a fragment; groups: path, query."""

_UNUSUAL = frozenset((b"expect", b"transfer-encoding", b"upgrade", b"http2-settings"))
"""Fields that change how a request is read or answered: not for the fast path."""

MAX_NAMES = 1000
"""The most field names, as clients write them, for which the environ key is remembered."""


class FastParser:
    """gunicorn's C parser (gunicorn_h1c) with the settings of a worker.

    It parses requests that have nothing unusual. All other requests, and all that it finds wrong,
    are given to gunicorn's own classes from their first byte on. So gunicorn always decides what
    is refused, and how.
    """

    def __init__(self, parse: Callable[..., Any], cfg: Config) -> None:
        self._parse = parse
        self._names: dict[bytes, str] = {}
        line = cfg.limit_request_line
        if line <= 0 or line > MAX_REQUEST_LINE:
            # 0 means no limit for gunicorn, whose own parser reads longer lines
            line = MAX_REQUEST_LINE
        count, size = cfg.limit_request_fields, cfg.limit_request_field_size
        self._limits = {
            "limit_request_line": line,
            "limit_request_fields": count if 0 < count <= MAX_HEADERS else MAX_HEADERS,
            "limit_request_field_size": size if size > 0 else DEFAULT_MAX_HEADERFIELD_SIZE,
        }
        fields, size = (
            self._limits["limit_request_fields"],
            self._limits["limit_request_field_size"],
        )
        self.max_head = line + fields * (size + 2)
        self.secure = {
            f"HTTP_{name.replace('-', '_')}": value
            for name, value in cfg.secure_scheme_headers.items()
        }

    @classmethod
    def of(cls, cfg: Config) -> FastParser | None:
        """The parser of a worker; None if its settings rule it out or it is not installed.

        Raises RuntimeError if ``http_parser`` is "fast" and it is not installed.
        """
        check: Callable[[Config], bool] = vars(message)["_check_fast_parser"]
        if not check(cfg):
            return None
        if (
            cfg.casefold_http_method
            or cfg.permit_unconventional_http_method
            or cfg.permit_unconventional_http_version
            or os.environ.get("SCRIPT_NAME")
            or cfg.proxy_protocol != "off"
        ):
            return None
        parse = getattr(import_module("gunicorn_h1c"), "parse_request_fast", None)
        return None if parse is None else cls(parse, cfg)

    def parse(self, data: bytes, known: int) -> Any:
        """The head at the start of `data`; None if it is not complete yet.

        known: how many bytes of `data` the last call had. Raises what the parser raises.
        """
        try:
            return self._parse(data, known, **self._limits)
        except Exception as error:
            if type(error).__name__ == "IncompleteError":
                return None
            raise

    def take(self, head: Any, environ: dict[str, Any]) -> bool:
        """Put the fields of a head into `environ`. False if one is unusual or comes twice."""
        names = self._names
        for name, value in head.headers:
            key = names.get(name) or self._key(name)
            if key in environ or not key:
                return False
            environ[key] = str(value, "latin-1")
        return True

    def _key(self, name: bytes) -> str:
        """The environ key of a field; "" for an unusual field."""
        lower = name.lower()
        if b"_" in name or lower in _UNUSUAL:
            return ""
        key = str(name, "latin-1").upper().replace("-", "_")
        if lower not in (b"content-type", b"content-length"):
            key = f"HTTP_{key}"
        if len(self._names) < MAX_NAMES:
            self._names[name] = key
        return key


class Requests(RequestParser):
    """The requests of one connection.

    fast: the worker's C parser, or None. shared: the part of environ that all requests of the
    connection have in common; see environ.py.
    """

    mesg_class = _Request
    unreader: Reader

    def __init__(
        self,
        cfg: Config,
        reader: Reader,
        address: Any,
        listener_name: Any,
        fast: FastParser | None,
        shared: dict[str, Any],
    ) -> None:
        self.cfg = cfg
        self.unreader = reader
        self.mesg: Any = None
        self.source_addr = address
        self.req_count = 0
        self._fast = fast
        self._shared = shared
        self._listener_name = listener_name
        if isinstance(listener_name, bytes) or ":" in listener_name:
            self._fast = None  # a path that gunicorn reads in its own way
        self._empty = Body(LengthReader(reader, 0))

    def next(self) -> tuple[Any, dict[str, Any] | None]:  # type: ignore[override]
        """The next request, and its environ if the fast path made it, else None.

        Raises StopIteration if there is no more request, and gunicorn's errors.
        """
        if (last := self.mesg) is not None:
            self.unreader.kept = True
            if last.body is not self._empty:
                self.unreader.begin_body(discards=True)
            finish: Callable[[], object] = self.finish_body
            if last.should_close() or (last.body is not self._empty and not finish()):
                raise StopIteration
        if self._fast is not None and (found := self._next_fast(self._fast)) is not None:
            return found
        self.mesg = None  # its body has been read
        return super().__next__(), None

    def _next_fast(self, fast: FastParser) -> tuple[Any, dict[str, Any]] | None:
        """The next request. None if gunicorn's classes have to parse it: its bytes are unread."""
        reader = self.unreader
        reader.begin_head()
        data = reader.read() if reader.begun else reader.chunk()
        if not data:
            raise StopIteration
        known = 0
        head: Any = None
        while True:
            try:
                head = fast.parse(data, known)
                environ = self._shared.copy()
                request = head and self._request(fast, head, environ)
            except Exception:
                request = None
                break
            if head is not None or len(data) > fast.max_head:
                break
            reader.head = bytearray(data)
            more = reader.read()
            if not more:
                break
            known, data = len(data), data + more
        if request is None:
            reader.unread(data)
            return None
        if head.consumed < len(data):
            reader.unread(data[head.consumed :])
        self.mesg = request
        if request.body is self._empty:
            reader.head = None
        else:
            reader.begin_body()
        return request, environ

    def _request(self, fast: FastParser, head: Any, environ: dict[str, Any]) -> FastRequest | None:
        """The request of a parsed head, and its `environ`. None if it is unusual or wrong.

        The request has no reference to the environ, which leads back to it, so that both are
        freed without the garbage collector.
        """
        method, target = _METHODS.get(head.method), _ORIGIN_FORM.fullmatch(head.path)
        if method is None or target is None or not fast.take(head, environ):
            return None
        reader, minor = self.unreader, head.minor_version
        host = environ.get("HTTP_HOST")
        if host is None:
            if minor != 0:
                return None
        elif host != reader.host:
            if not _is_host(host):
                return None
            reader.host = host
        raw_path, raw_query = target.groups(b"")
        path, query = str(raw_path, "latin-1"), str(raw_query, "latin-1")
        self.req_count += 1
        request = FastRequest(self, head, method, path, query, environ.get("HTTP_CONNECTION"))
        length = environ.get("CONTENT_LENGTH")
        if length is None:
            request.body = self._empty
        elif length.isascii() and length.isdigit():
            request.body = Body(LengthReader(reader, int(length)))
        else:
            self.req_count -= 1
            return None
        trusted = reader.trusted
        if trusted is None:
            trusted = request._peer_is_trusted_proxy()
        if trusted:
            for key in fast.secure:
                if key in environ and not _take_scheme(environ, fast.secure):
                    self.req_count -= 1
                    return None
        request.scheme = environ["wsgi.url_scheme"]
        environ["REQUEST_METHOD"] = method
        environ["RAW_URI"] = str(head.path, "latin-1")
        environ["PATH_INFO"] = path if "%" not in path else unquote_to_wsgi_str(path)
        environ["QUERY_STRING"] = request.query
        environ["SERVER_PROTOCOL"] = _PROTOCOLS[minor]
        environ["wsgi.input"] = request.body
        if "SERVER_NAME" not in environ:
            self._add_server(environ, host)
        return request

    def _add_server(self, environ: dict[str, Any], host: str | None) -> None:
        """Set SERVER_NAME and SERVER_PORT at a Unix socket, from Host, as gunicorn does."""
        scheme = environ["wsgi.url_scheme"]
        if not host:
            name, port = self._listener_name, ""
        else:
            name, *ports = host.split(":")
            port = ports[0] if ports else "443" if scheme == "https" else "80"
        environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port


def _take_scheme(environ: dict[str, Any], secure: dict[str, str]) -> bool:
    """Set the scheme that a trusted proxy tells; False if it tells two of them."""
    told = {
        "https" if environ[key] == value else "http"
        for key, value in secure.items()
        if key in environ
    }
    environ["wsgi.url_scheme"] = min(told)
    return len(told) == 1
