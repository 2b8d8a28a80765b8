"""Exchange: one request and its response, between an application and the test that reads it.

The application runs in a thread, or in a greenlet if gevent has patched `threading`. It runs only
while the test waits for a chunk. So what it has done by a certain line of the test does not depend
on timing. The exchange acts as a WSGI server (PEP 3333): it checks the rules of the PEP, calls
``close()`` once, and re-raises exc_info if the head was sent.

Streams of vento_wsgi find the same keys in environ as on StreamWorker: one to register
themselves, and under gevent a connection, which shows at once when the client has left.
"""

from __future__ import annotations

import contextvars
import re
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.util import is_hop_by_hop

from ..exceptions import StreamAborted
from ..http_syntax import TOKEN, VALUE
from ..streaming.connection import Connection
from ..streaming.environ import CONNECTION
from ..streaming.pumps import cooperative
from ..streaming.record import Ending
from ..streaming.stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

__all__ = ["Exchange"]

_STATUS = re.compile(rf"[1-9][0-9]{{2}} {VALUE}")
_NAME = re.compile(TOKEN)
_VALUE = re.compile(VALUE)
_LIBRARY = sysconfig.get_path("stdlib")


class _Report:
    """Replaces the drain of a worker: streams register here when they start and end."""

    draining = False

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.ended = False

    def add(self, stream: Stream) -> None:
        self.stream, self.ended = stream, False

    def discard(self, stream: Stream) -> None:
        self.ended = self.ended or stream is self.stream


class _Connection(Connection):
    """The connection of a test. A stream that breaks off is an error that the test sees."""

    limits_writes = True

    def __init__(self, sock: socket.socket | None, drain: _Report) -> None:
        self.sock = sock
        self.drain = drain


class Exchange:
    """See the module. name: names the request in messages. timeout: seconds for each wait."""

    def __init__(self, name: str, timeout: float) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self._name = name
        self._timeout = timeout
        self._report = _Report()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ready = self._over = self._left = self._wanted = False
        self._sent = False  # whether the head was sent, so that it cannot change any more
        self._chunk = b""
        self._error: BaseException | None = None
        self._ends: tuple[socket.socket, ...] = ()
        self._bytes = self._chunks = 0
        self._start = time.monotonic()
        self._duration = 0.0
        self._written = 0
        self._bodiless = False

    # the test's side

    def begin(
        self, app: WSGIApplication, environ: WSGIEnvironment
    ) -> tuple[str, list[tuple[str, str]]]:
        """Start the application and wait for its head. Raises TimeoutError."""
        self._bodiless = environ["REQUEST_METHOD"] == "HEAD"
        if cooperative():
            self._ends = socket.socketpair()
        environ[CONNECTION] = _Connection(self._ends[0] if self._ends else None, self._report)
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._run, app, environ), name=self._name, daemon=True
        )
        self._thread.start()
        with self._changed:
            self._wait(lambda: self._ready or self._over, "no head")
        if not self._ready:
            self._raise()
        return self.status, self.headers

    def take(self) -> bytes | None:
        """The next chunk; None at the end. Raises TimeoutError, and what the application raises."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            self._wait(lambda: self._chunk or self._over or self._left, "nothing")
            self._wanted = False
            chunk, self._chunk = self._chunk, b""
        if not chunk or self._left:
            self._raise()
            return None
        self._bytes += len(chunk)
        self._chunks += 1
        return chunk

    def leave(self) -> None:
        """Close the connection and wait for the end of the application. Raises TimeoutError."""
        with self._changed:
            self._left = True
            self._changed.notify_all()
        if self._ends:
            self._ends[1].close()
        if self._thread is None:
            return
        self._thread.join(self._timeout)
        if self._thread.is_alive():
            raise TimeoutError(
                f"{self._name}: the application did not end within {self._timeout:g} s after the "
                f"client left{self._where()}; without gevent's patches it notices that only at its "
                "next chunk: let the source wait for a shorter time, or end"
            )
        if self._ends:
            self._ends[0].close()
        with suppress(StreamAborted):
            self._raise()

    def abandon(self) -> None:
        """Leave without raising, because another error is being raised."""
        with suppress(Exception):
            self.leave()

    @property
    def ending(self) -> Ending | None:
        stream = self._report.stream
        if stream is None or stream.reason is None or not self._report.ended:
            return None
        return Ending(stream.reason, self._bytes, self._chunks, self._duration)

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        if not self._changed.wait_for(condition, self._timeout):
            raise TimeoutError(
                f"{self._name}: {what} came within {self._timeout:g} s, after {self._chunks} "
                f"chunks of {self._bytes} bytes in all{self._where()}"
            )

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _where(self) -> str:
        """The line of code that the application's thread is at; "" if it is not known."""
        ident = None if self._thread is None else self._thread.ident
        frame = None if cooperative() or ident is None else sys._current_frames().get(ident)
        for line in reversed(traceback.extract_stack(frame) if frame is not None else ()):
            if "site-packages" in line.filename or not line.filename.startswith(_LIBRARY):
                return f"; it waits in {line.name}, {line.filename}:{line.lineno}"
        return ""

    # the server's side, in the application's thread

    def _run(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        try:
            body: Any = app(environ, self._start_response)
            try:
                self._send(body)
            finally:
                if hasattr(body, "close"):
                    body.close()
        except BaseException as error:  # raised again in the test's thread
            self._error = error
        with self._changed:
            self._duration = time.monotonic() - self._start
            self._over = True
            self._changed.notify_all()

    def _send(self, body: Any) -> None:
        assert not isinstance(body, (str, bytes)), "an application returns an iterable: [body]"
        chunks = iter(body)
        if self.status:
            self._announce()
        # an application may call start_response only when its first chunk is requested
        while not self.status or self._asked():
            chunk = next(chunks, self)
            assert self.status, "start_response was not called before the first chunk"
            self._announce()
            if chunk is self:
                self._check_length()
                return
            assert type(chunk) is bytes, f"a chunk is bytes, not {chunk!r}"
            self._written += len(chunk)
            self._give(chunk)

    def _announce(self) -> None:
        with self._changed:
            self._ready = True
            self._changed.notify_all()

    def _asked(self) -> bool:
        """Wait until the test wants a chunk; False if the test has left."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._left)
            return not self._left

    def _give(self, chunk: bytes) -> None:
        if chunk:
            self._sent = True
            with self._changed:
                self._chunk = chunk
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._chunk or self._left)

    def _write(self, data: bytes) -> None:
        assert type(data) is bytes, f"write() takes bytes, not {data!r}"
        self._sent = True
        self._announce()
        if data:
            if not self._asked():
                raise BrokenPipeError("the client left")
            self._give(data)
        self._written += len(data)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and self._sent:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        assert exc_info is not None or not self.status, "a second start_response has an exc_info"
        _check(status, headers)
        self.status, self.headers = status, list(headers)
        return self._write

    def _check_length(self) -> None:
        if self._bodiless or self.status[:3] in ("204", "304"):
            return
        for name, value in self.headers:
            if name.lower() == "content-length":
                assert int(value) == self._written, (
                    f"the body is {self._written} bytes, and its Content-Length says {value}"
                )


def _check(status: object, headers: object) -> None:
    """Check the arguments of start_response by the rules of PEP 3333."""
    assert isinstance(status, str), f"a status is text, not {status!r}"
    assert _STATUS.fullmatch(status), f"a status is '200 OK', not {status!r}"
    assert type(headers) is list, f"headers are a list, not {headers!r}"
    for field in headers:
        assert type(field) is tuple, f"a header is a pair, not {field!r}"
        name, value = field
        for part, rule in ((name, _NAME), (value, _VALUE)):
            assert isinstance(part, str), f"a header is a pair of texts, not {field!r}"
            assert rule.fullmatch(part), f"the header {field!r} cannot be sent"
        assert not is_hop_by_hop(name), f"only the server may send {name}"
