"""WorkerResponse: gunicorn's response, written in as few sends as the data allows.

The headers, the framing and what a response may not send are gunicorn's. The writing is ours
(see streaming/writer.py): the head is sent with the first bytes of the body, the final chunk with
the last ones, and files by sendfile(2). A head without a body yet is sent when the source pauses.
A client that takes nothing for `send_timeout` seconds is given up, whatever the body is.

It is also the Connection of a request, at ``environ["vento_wsgi.connection"]``.
"""

from __future__ import annotations

import io
import math
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from tempfile import _TemporaryFileWrapper
from typing import Any

from gevent.socket import wait_write
from gunicorn import SERVER, util
from gunicorn.http import wsgi
from gunicorn.http.wsgi import Response

from .. import http_syntax
from ..bodies.files import PLAIN
from ..exceptions import ClientStalled, StreamAborted
from ..logs import logger
from ..streaming.connection import RESET, Connection
from ..streaming.options import SEND_TIMEOUT
from ..streaming.progress import Progress
from ..streaming.record import CloseReason
from ..streaming.stream import Stream
from ..streaming.turns import turns
from ..streaming.writer import Writer

__all__ = ["WorkerResponse", "sender_of"]

log = logger(__name__)

LAST_CHUNK = b"0\r\n\r\n"

RECORD = 16 * 1024
"""Bytes of a record of TLS (RFC 8446, section 5.1)."""

SENDFILE_SIZE = 4 * 1024 * 1024
"""Bytes of one sendfile(2): other greenlets have their turn at least that often."""

JOINED = 64 * 1024 + 16
"""Bytes up to which it costs less to copy the parts of a write than to pass them on."""

FAILED = b'{"type": "about:blank", "title": "Internal Server Error", "status": 500}'
"""The answer, by RFC 9457, for a stream that failed before anything of it was sent."""


class WorkerResponse(Writer, Connection, Response):
    """A response on a gevent socket, and what a stream finds of its connection in environ."""

    send_timeout: float | None = SEND_TIMEOUT
    limits_writes = True

    # gunicorn's, which makes them anew for each response
    version = SERVER
    status: str | None = None
    status_code: int | None
    response_length: int | None = None
    chunked = must_close = headers_sent = upgrade = False
    sent = 0
    _omits_body = _omits_body_warned = False

    closes = True
    """Whether the connection ends with this response: decided when its head is sent."""

    _fields = ""  # the header fields as they are sent
    _broken: CloseReason | None = None  # why this response must not look whole
    _body = b""  # where it is known as a whole
    _ended = False

    def __init__(self, req: Any, sock: Any, cfg: Any, sender: Any = None) -> None:
        self.req = req
        self.sock = sock
        self.cfg = cfg
        self._sender: Callable[[Any], int] = sender or sender_of(sock)
        self.headers: list[tuple[str, str]] = []

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is None and self.status is None and self._start(status, headers):
            return self.write
        if exc_info is not None and self._ready:
            self._flush()  # what the application has made so far belongs to the first head
        if exc_info is not None and not self.headers_sent:
            # PEP 3333: these replace those of the first call
            self.headers, self.response_length, self.upgrade = [], None, False
        write = super().start_response(status, headers, exc_info)
        self._fields = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        return write

    def _start(self, status: Any, headers: Any) -> bool:
        """Start the response if gunicorn would take all of it as it is; False for its own way."""
        code = _statuses.get(status) if type(status) is str else None
        if code is None or type(headers) is not list:
            return False
        lines: list[str] = []
        length: int | None = None
        try:
            for field in headers:
                line = _lines.get(field)
                if line is None:
                    name, value = field
                    if name == "Content-Length" and type(value) is str and value.isdecimal():
                        if length is not None or code < 200 or code == 204:
                            return False
                        length = int(value)
                        line = f"Content-Length: {value}\r\n"
                    elif (line := _learn(name, value)) is None:
                        return False
                lines.append(line)
        except (AttributeError, TypeError, ValueError):
            return False
        self.status, self.status_code = status, code
        self.headers = list(headers)
        self._fields = "".join(lines)
        self.response_length = length
        self._omits_body = self.req.method == "HEAD" or code in (204, 304) or code < 200
        self.chunked = length is None and not self._omits_body and self.req.version != (1, 0)
        return True

    def send_early_hints(self, headers: Any) -> None:
        """``environ["wsgi.early_hints"]``: gunicorn's, which sends a 103 (RFC 8297)."""
        _early_hints(self.req, self.sock, self)(headers)

    # what a stream finds at environ["vento_wsgi.connection"]

    @property
    def forwarded(self) -> str:
        """X-Forwarded-For of the request."""
        return next((value for name, value in self.req.headers if name == "X-FORWARDED-FOR"), "")

    @property
    def can_push(self) -> bool:
        return not (self._omits_body or self.upgrade)

    @property
    def can_park(self) -> bool:
        return self.req.version == (1, 1) and not self._is_tls

    @property
    def stalled(self) -> bool:
        return isinstance(self.failure, ClientStalled)

    def limit(self, send_timeout: float | None) -> None:
        self.send_timeout = send_timeout

    def can_probe(self) -> bool:
        return self.chunked and self.headers_sent and not self._ended and not self.is_full

    def probe(self) -> bool:
        # a chunk-size may have leading zeros (RFC 9112, section 7.1): the next one has this
        self.send(self._sender, (b"0",))
        return self.failure is None

    def break_off(self, reason: CloseReason) -> bool:
        self.send_ready()  # what came before belongs to the response
        self._broken = self._broken or reason
        return True

    def reset(self, error: OSError) -> None:
        self._reset_at_close()
        self._fail(error)

    @property
    def _is_tls(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)

    def send_headers(self) -> None:
        return  # with the first bytes

    # writing

    def check_started(self) -> None:
        _ = self.status_code  # AttributeError, as gunicorn has it, before start_response

    def write(self, chunk: bytes) -> None:
        """The write() of start_response (PEP 3333), for applications that do not iterate."""
        if self._broken is not None:
            return  # middleware goes on where a stream broke off
        if self.is_pushing:  # from within the iterable, which PEP 3333 does not allow
            self._ready.append(chunk)
            self.flush()
        else:
            self.push((chunk,), each=True)

    def write_all(self, body: Iterable[bytes]) -> None:
        """Write the application's iterable; the end follows by close()."""
        if isinstance(body, (list, tuple)) and {*map(type, body)} <= {bytes}:
            self._body = b"".join(body)
        elif isinstance(body, Stream):
            if self.can_push and body.can_run:
                body.run(self)
            else:
                self.push(body, each=True)
        else:
            self.push(body, each=False)

    def write_file(self, respiter: Any) -> None:
        if self._broken is None and not self.sendfile(respiter):
            self.push(respiter, each=True)

    def close(self) -> None:
        if self._broken is not None:
            self._break()
            return
        self.finish(self._body)
        if self.response_length is not None and not self._omits_body:
            left = self.response_length - self.sent
            if left > 0:
                name = f"{self.req.method} {self.req.path}"
                log.error(
                    "%s: a body ended %d bytes short of its Content-Length",
                    *(name, left),
                    extra={"route": name},
                )
                raise StreamAborted(f"a body ended {left} bytes short of its Content-Length")

    def send_rest(self) -> None:
        """Send what the application has made before it failed."""
        if self._ready or self.is_full:
            with suppress(OSError):
                self.flush()

    def transmit(self, data: bytes | memoryview, *, last: bool = False) -> None:
        if data and (self._omits_body or self.response_length is not None):
            data = self._cut(data)
        size = len(data)
        before, after = b"", b""
        if not self.headers_sent:
            before = self._head()
            self.headers_sent = True
        if self.chunked and not self._ended:
            self._ended = last
            if size:
                before += b"%X\r\n" % size
                after = b"\r\n" + LAST_CHUNK if last else b"\r\n"
            elif last:
                before += LAST_CHUNK
        self.sent += size
        if size <= JOINED:
            if size or before:
                self.send(self._sender, (b"".join((before, data, after)),))
        else:
            self.send(self._sender, [part for part in (before, data, after) if part])

    def _cut(self, data: bytes | memoryview) -> bytes | memoryview:
        """What may be sent of `data`: not more than Content-Length, and nothing without a body."""
        if not self._omits_body:
            assert self.response_length is not None
            return data[: max(0, self.response_length - self.sent)]
        if not self._omits_body_warned:
            self._omits_body_warned = True
            wsgi.log.warning(
                "WSGI app sent body bytes on a no-body response (method=%s status=%s); "
                "dropping per RFC 9110.",
                *(self.req.method, self.status_code),
            )
        return b""

    def _break(self) -> None:
        """End the connection so that the client sees that the body is not whole."""
        if not self.headers_sent and self._broken is CloseReason.FAILED and self.failure is None:
            # a client that had no byte of an answer would ask once more
            self._broken = None
            kind, length = ("Content-Type", "application/problem+json"), f"{len(FAILED)}"
            self.start_response(
                "500 Internal Server Error",
                [kind, ("Content-Length", length)],
                (StreamAborted, StreamAborted("failed"), None),
            )
            self.force_close()
            self.finish(FAILED)
            return
        if self.headers_sent and not self.chunked and self.response_length is None:
            # such a body ends where the connection does: it must not look like an end
            self._reset_at_close()
        error = StreamAborted(f"the response broke off: {self._broken}")
        self.abandon(error)
        raise error

    def _reset_at_close(self) -> None:
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _fail(self, error: OSError) -> None:
        if isinstance(error, ClientStalled):
            self._reset_at_close()
        elif not isinstance(error, StreamAborted):
            cause, error = error, StreamAborted("the client left")
            error.__cause__ = cause
        super()._fail(error)

    def _head(self) -> bytes:
        major, minor = self.req.version or (1, 1)
        self.closes = self.should_close()
        connection = "upgrade" if self.upgrade else "close" if self.closes else "keep-alive"
        framing = "Transfer-Encoding: chunked\r\n" if self.chunked else ""
        return (
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\nDate: {_date()}\r\n"
            f"Connection: {connection}\r\n{framing}{self._fields}\r\n"
        ).encode("latin-1")

    def sendfile(self, body: Any) -> bool:
        length = self.response_length
        if self._omits_body:
            self.flush()
            return super().sendfile(body)
        if not self.can_sendfile() or length is None or self._is_tls:
            return False
        file = _place(body.filelike)
        if file is None:
            return False
        self.flush()
        source, offset = file
        progress = Progress(self.sock)
        target, end = self.sock.fileno(), offset + length - self.sent
        patience = None if self.send_timeout is None else self.send_timeout / 4
        while offset < end:
            try:
                sent = os.sendfile(target, source, offset, min(SENDFILE_SIZE, end - offset))
            except BlockingIOError:
                try:
                    wait_write(target, patience)
                except TimeoutError:
                    if progress.still() >= (self.send_timeout or math.inf):
                        self._fail(ClientStalled())
                        self.wait_for_room()
                turns().pause()
                continue
            except ConnectionError as error:  # of the socket: a file has other errors
                raise StreamAborted("the client left") from error
            if not sent:
                break  # the file has shrunk: close() will say so
            offset += sent
            self.sent += sent
            progress.go_on()
        return True


def sender_of(sock: Any) -> Callable[[Any], int]:
    """Sends to a gevent socket without waiting. Raises BlockingIOError where it would have to."""
    if isinstance(sock, ssl.SSLSocket):
        return partial(_send_tls, sock)
    return sock._sock.send  # type: ignore[no-any-return]


def _send_tls(sock: Any, data: Any) -> int:
    """Send over TLS without waiting. Raises BlockingIOError.

    A write that could not be finished must be tried again with as many bytes (SSL_write(3)). So
    bytes are written by records, which have the same bounds the next time.
    """
    view, sent = memoryview(data), 0
    try:
        while sent < len(view):
            sent += sock._sslobj.write(view[sent : sent + RECORD])
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        if not sent:
            raise BlockingIOError from error
    return sent


def _place(file: Any) -> tuple[int, int] | None:
    """The descriptor of a file and where read() would go on; None if sendfile will not do."""
    inner = file.file if isinstance(file, _TemporaryFileWrapper) else file
    try:
        if isinstance(inner, io.IOBase):
            # others give something else than their descriptor: gzip.open(), a text file
            if type(inner) not in PLAIN or type(getattr(inner, "raw", inner)) is not io.FileIO:
                return None
            if inner.writable():
                inner.flush()
        descriptor: int = inner.fileno()
        # PEP 3333: from the current position. A buffer may have read its descriptor further than
        # it has given, so without tell() only the start of a file is certain.
        if hasattr(inner, "tell"):
            return descriptor, inner.tell()
        return (descriptor, 0) if os.lseek(descriptor, 0, os.SEEK_CUR) == 0 else None
    except (AttributeError, OSError, ValueError):
        return None


_early_hints: Any = vars(wsgi).get("_make_early_hints_callback")

_statuses = {
    f"{status.value} {status.phrase}": status.value for status in HTTPStatus if status.value >= 200
}
"""The usual status lines, which need no further look; 1xx are gunicorn's."""

_lines: dict[tuple[str, str], str] = {}
"""Header fields that were found legal, each as its line. Most are the same in every response."""

MAX_LINES = 1000
LONGEST_LINE = 200


def _learn(name: Any, value: Any) -> str | None:
    """The line of a field; None where it is not legal, or means something to the server."""
    if not http_syntax.is_legal(name, value) or value != value.strip(" \t"):
        return None
    if name.lower() == "content-length" or util.is_hoppish(name):
        return None
    line = f"{name}: {value}\r\n"
    if len(line) <= LONGEST_LINE:
        if len(_lines) >= MAX_LINES:
            _lines.clear()
        _lines[name, value] = line
    return line


_dated = 0, ""


def _date() -> str:
    """The Date of now (RFC 9110, section 6.6.1), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, formatdate(now, usegmt=True)
    return _dated[1]
