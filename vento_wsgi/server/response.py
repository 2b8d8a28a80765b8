"""WorkerResponse: gunicorn's response, written in as few sends as the data allows.

What a response is (its headers, its framing, what it may not send) stays gunicorn's. Only the
writing is ours: the head waits for the first bytes and leaves with them, the final chunk
leaves with the last ones, files go through sendfile(2). An empty chunk sends a waiting head:
a source that has nothing yet gives one. No write waits for longer than `send_timeout` without
progress, whatever the body is.

It is also what streams find at ``environ["vento_wsgi.connection"]``; see connection.py.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from email.utils import formatdate
from tempfile import _TemporaryFileWrapper
from typing import Any

from gevent.socket import wait_write
from gunicorn.http.wsgi import Response

from ..bodies.files import PLAIN
from ..exceptions import ClientStalled, StreamAborted
from ..logs import logger
from ..streaming.connection import RESET, Progress
from ..streaming.options import SEND_TIMEOUT
from ..streaming.record import CloseReason
from ..streaming.stream import Stream
from ..streaming.turns import turns

__all__ = ["WorkerResponse"]

log = logger(__name__)

LAST_CHUNK = b"0\r\n\r\n"

SENDFILE_SIZE = 4 * 1024 * 1024
"""Bytes of one sendfile(2): other greenlets have their turn at least that often."""

JOINED = 16 * 1024
"""Bytes up to which it costs less to copy the parts of a write than to pass them on."""

FAILED = b'{"type": "about:blank", "title": "Internal Server Error", "status": 500}'
"""The answer, by RFC 9457, for a stream that failed before anything of it was sent."""


class WorkerResponse(Response):
    """A response on a gevent socket.

    send_timeout: seconds that the client may take nothing at all; None for no limit.
    stalled: whether it has done so, and the connection is to be reset.
    """

    send_timeout: float | None = SEND_TIMEOUT
    stalled = False

    _omits_body: bool
    _broken: CloseReason | None = None  # why this response must not look whole
    _last = False
    _ended = False

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and not self.headers_sent:
            # PEP 3333: these replace those of the first call
            self.headers, self.response_length, self.upgrade = [], None, False
        return super().start_response(status, headers, exc_info)

    @property
    def forwarded(self) -> str:
        """X-Forwarded-For of the request."""
        return next((value for name, value in self.req.headers if name == "X-FORWARDED-FOR"), "")

    def break_off(self, reason: CloseReason) -> bool:
        """Called by a stream whose body is not whole; the response ends by close()."""
        self._broken = self._broken or reason
        return True

    def write_all(self, body: Iterable[bytes]) -> None:
        """Write every chunk of the application's iterable."""
        if isinstance(body, Stream):
            for chunk in body:
                self._last = body.last
                self.write(chunk)
        else:
            self._last = isinstance(body, (list, tuple)) and len(body) == 1
            for chunk in body:
                self.write(chunk)

    def _break(self) -> None:
        """End the connection so that the client sees that the body is not whole."""
        if not self.headers_sent and self._broken is CloseReason.FAILED:
            # a client that had no byte of an answer would ask once more
            self._broken = None
            kind, length = ("Content-Type", "application/problem+json"), f"{len(FAILED)}"
            self.start_response(
                "500 Internal Server Error",
                [kind, ("Content-Length", length)],
                (StreamAborted, StreamAborted("failed"), None),
            )
            self.force_close()
            self.write(FAILED)
            return
        if self.headers_sent and not self.chunked and self.response_length is None:
            # such a body ends where the connection does: it must not look like an end
            self._reset_at_close()
        raise StreamAborted(f"the response broke off: {self._broken}")

    def _reset_at_close(self) -> None:
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def write(self, chunk: bytes) -> None:
        if self._broken is not None:  # middleware goes on where a stream broke off
            return
        if self._omits_body or chunk == b"":
            self._send()
        if chunk != b"":
            super().write(chunk)

    def send_headers(self) -> None:
        return  # with the first bytes

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            self._ended = self._last
            end = b"\r\n" + LAST_CHUNK if self._last else b"\r\n"
            self._send(b"%X\r\n" % len(data), data, end)
        else:
            self._send(b"", data)

    def close(self) -> None:
        if self._broken is not None:
            self._break()
        elif self.chunked and not self._ended:
            self._ended = True
            self._send(LAST_CHUNK)
        else:
            self._send()
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

    def _send(self, before: bytes = b"", data: bytes = b"", after: bytes = b"") -> None:
        """Write the head, if it has not left, and the parts of the body. Raises ClientStalled."""
        if not self.headers_sent:
            before = self._head() + before
            self.headers_sent = True
        elif not (before or data):
            return  # all has left: a send of nothing would still be a system call
        if len(data) <= JOINED:
            self._push(before + data + after)
        else:
            self._push(before, data, after)

    def _push(self, *parts: bytes) -> None:
        sent = 0
        if not self.cfg.is_ssl:
            raw: Any = self.sock
            try:
                sent = raw._sock.sendmsg(parts)
            except BlockingIOError:
                pass
            except OSError as error:
                raise StreamAborted("the client left") from error
        for part in parts:
            if sent < len(part):
                self._push_slowly(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _push_slowly(self, rest: memoryview) -> None:
        kept = self.sock.gettimeout()
        progress = Progress(self.sock)
        self.sock.settimeout(self._patience)
        try:
            while rest:
                rest = rest[self._send_some(rest, progress) :]
        finally:
            self.sock.settimeout(kept)

    def _send_some(self, data: memoryview, progress: Progress) -> int:
        try:
            if not self.cfg.is_ssl:
                wait_write(self.sock.fileno(), self._patience)
                turns().pause()
            sent = self.sock.send(data)
        except TimeoutError:
            self._check(progress)
            return 0
        progress.go_on()
        return sent

    @property
    def _patience(self) -> float | None:
        """Seconds between two looks at a client that takes nothing."""
        return None if self.send_timeout is None else self.send_timeout / 4

    def _check(self, progress: Progress) -> None:
        if self.send_timeout is not None and progress.still() >= self.send_timeout:
            self.stalled = True
            self._reset_at_close()
            raise ClientStalled

    def _head(self) -> bytes:
        major, minor = self.req.version or (1, 1)
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        lines = [f"HTTP/{major}.{minor} {self.status}\r\n", f"Server: {self.version}\r\n"]
        lines += [f"Date: {_date()}\r\n", f"Connection: {connection}\r\n"]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")

    def sendfile(self, body: Any) -> bool:
        length = self.response_length
        if self._omits_body:
            self._send()
            return super().sendfile(body)
        if self.cfg.is_ssl or not self.can_sendfile() or length is None or self._broken:
            return False
        file = _place(body.filelike)
        if file is None:
            return False
        self._send()
        source, offset = file
        progress = Progress(self.sock)
        target, end = self.sock.fileno(), offset + length - self.sent
        while offset < end:
            try:
                sent = os.sendfile(target, source, offset, min(SENDFILE_SIZE, end - offset))
            except BlockingIOError:
                try:
                    wait_write(target, self._patience)
                except TimeoutError:
                    self._check(progress)
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


_dated = 0, ""


def _date() -> str:
    """The Date of now (RFC 9110, section 6.6.1), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, formatdate(now, usegmt=True)
    return _dated[1]
