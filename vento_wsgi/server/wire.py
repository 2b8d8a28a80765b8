"""Wire: gunicorn's response, written in as few sends as the data allows.

What a response is (its headers, its framing, what it may not send) stays gunicorn's. Only the
writing is ours: the head waits for the first bytes and leaves with them, the final chunk
leaves with the last ones, files go through sendfile(2). An empty chunk sends a waiting head:
a source that has nothing yet gives one.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

from gevent.socket import wait_write
from gunicorn.http.wsgi import Response

from ..account import CloseReason
from ..connection import RESET
from ..exceptions import StreamAborted
from ..policies import SEND_TIMEOUT
from ..stream import Stream

__all__ = ["Wire"]

log = logging.getLogger(__name__)

LAST_CHUNK = b"0\r\n\r\n"

SENDFILE_SIZE = 4 * 1024 * 1024
"""Bytes of one sendfile(2): other greenlets have their turn at least that often."""

FAILED = b'{"type": "about:blank", "title": "Internal Server Error", "status": 500}'
"""The answer, by RFC 9457, for a stream that failed before anything of it was sent."""


class Wire(Response):
    """A response on a gevent socket."""

    _omits_body: bool
    _last = False
    _ended = False

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and not self.headers_sent:
            # PEP 3333: these replace those of the first call
            self.headers, self.response_length, self.upgrade = [], None, False
        return super().start_response(status, headers, exc_info)

    def write_all(self, body: Iterable[bytes]) -> None:
        """Write every chunk of the application's iterable."""
        if isinstance(body, Stream):
            try:
                for chunk in body:
                    self._last = body.last
                    self.write(chunk)
            except StreamAborted as error:
                self._break_off(body, error)
        else:
            self._last = isinstance(body, (list, tuple)) and len(body) == 1
            for chunk in body:
                self.write(chunk)

    def _break_off(self, body: Stream, error: StreamAborted) -> None:
        if not self.headers_sent and body.reason is CloseReason.FAILED:
            # a client that had no byte of an answer would ask once more
            kind, length = ("Content-Type", "application/problem+json"), f"{len(FAILED)}"
            self.start_response(
                "500 Internal Server Error",
                [kind, ("Content-Length", length)],
                (type(error), error, None),
            )
            self.force_close()
            self.write(FAILED)
            return
        if self.headers_sent and not self.chunked and self.response_length is None:
            # such a body ends where the connection does: it must not look like an end
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise error

    def write(self, chunk: bytes) -> None:
        if self._omits_body or chunk == b"":
            self._send(b"")
        if chunk != b"":
            super().write(chunk)

    def send_headers(self) -> None:
        return  # with the first bytes

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            self._ended = self._last
            end = LAST_CHUNK if self._last else b""
            data = b"%X\r\n%b\r\n%b" % (len(data), data, end)
        self._send(data)

    def close(self) -> None:
        if self.chunked and not self._ended:
            self._ended = True
            self._send(LAST_CHUNK)
        else:
            self._send(b"")
        if self.response_length is not None and not self._omits_body:
            left = self.response_length - self.sent
            if left > 0:
                log.error("a body ended %d bytes short of its Content-Length", left)
                raise StreamAborted(f"a body ended {left} bytes short of its Content-Length")

    def _send(self, data: bytes) -> None:
        if not self.headers_sent:
            data = self._head() + data
            self.headers_sent = True
        if data:
            sent = self.sock.send(data)
            if sent < len(data):
                self.sock.sendall(memoryview(data)[sent:])

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
            self._send(b"")
            return super().sendfile(body)
        if self.cfg.is_ssl or not self.can_sendfile() or length is None:
            return False
        try:
            source = body.filelike.fileno()
            offset = os.lseek(source, 0, os.SEEK_CUR)
        except (AttributeError, OSError):
            return False
        self._send(b"")
        target, end = self.sock.fileno(), offset + length - self.sent
        while offset < end:
            try:
                sent = os.sendfile(target, source, offset, min(SENDFILE_SIZE, end - offset))
            except BlockingIOError:
                wait_write(target, SEND_TIMEOUT, StreamAborted("the client stopped reading"))
                continue
            if not sent:
                break  # the file has shrunk: close() will say so
            offset += sent
            self.sent += sent
        return True


_dated = 0, ""


def _date() -> str:
    """The Date of now (RFC 9110, section 6.6.1), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, formatdate(now, usegmt=True)
    return _dated[1]
