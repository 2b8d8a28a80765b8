"""The connection of a client, as a stream sees it.

A server that knows about streams puts a Connection at ``environ["vento_wsgi.connection"]``:
StreamWorker does, and the test client. Of other servers `connection_of` finds the socket where they
keep it: gunicorn's gevent workers and gevent.pywsgi. Elsewhere a stream has no connection: it is
iterated, and the next chunk tells what there is to know.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from .environ import CONNECTION
from .progress import Progress
from .pumps import cooperative
from .record import CloseReason

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .writer import Outlet

__all__ = ["RESET", "Connection", "SocketConnection", "connection_of"]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that throws away what the client has not taken."""


class Connection:
    """What a stream can do with its client's connection: nothing, unless a server says so.

    sock: the client's socket; None if it is not known. drain: the streams of the worker, with
    `draining`, whether it stops; None where a server does not drain. can_push: whether a stream
    may push its chunks (see writer.py), so that the server does not iterate it. can_park: whether
    the server can let a subscriber have the socket. limits_writes: whether the server itself gives
    up a client that takes nothing; stalled: whether it has. waiting: bytes that the client has not
    taken; is_full: whether there are any. writer: the greenlet that sends, where it iterates.
    progress: how the client takes what that sends. forwarded: who the client is, as a proxy says.
    """

    sock: Any = None
    drain: Any = None
    limits_writes = False
    writer: Any = None
    progress: Progress

    @property
    def can_push(self) -> bool:
        return False

    @property
    def can_park(self) -> bool:
        return False

    @property
    def stalled(self) -> bool:
        return False

    @property
    def is_full(self) -> bool:
        return False

    @property
    def waiting(self) -> int:
        return 0

    @property
    def forwarded(self) -> str:
        return ""

    def limit(self, send_timeout: float | None) -> None:
        """Give up a client that takes nothing for so many seconds; None for no limit."""

    def break_off(self, reason: CloseReason) -> bool:  # noqa: ARG002
        """End the response so that nobody takes it for whole.

        False if the server cannot do that, and the stream has to raise StreamAborted.
        """
        return False

    def reset(self, error: OSError) -> None:
        """Give the client up: throw away what it has not taken, and `error` into the writer."""

    def can_probe(self) -> bool:
        """Whether probe() can be used now."""
        return False

    def probe(self) -> bool:
        """Send what a client that is there does not notice; False if there is none."""
        return True

    # where a stream pushes: see Writer

    def push(self, chunks: Iterable[bytes], outlet: Outlet | None = None, *, each: bool) -> None:
        raise NotImplementedError

    @property
    def is_pushing(self) -> bool:
        return False

    def interrupt(self, error: type[BaseException]) -> None:
        raise NotImplementedError

    def say(self, data: bytes) -> None:
        raise NotImplementedError

    def send_ready(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def finish(self, data: bytes = b"") -> None:
        raise NotImplementedError

    def wait_for_room(self) -> None:
        raise NotImplementedError

    # where a server iterates

    def written_from_here(self) -> None:
        """Called by the writer: the response may have been made in another greenlet."""

    def sent_head(self) -> None:
        """Called when the head has left without any bytes of the body."""

    def gave(self, piece: bytes) -> None:
        """Called by the writer with what the server is about to send."""


def connection_of(environ: WSGIEnvironment, length: int | None) -> Connection | None:
    """The connection of a request, where the server shows it. length: the Content-Length."""
    known: Connection | None = environ.get(CONNECTION)
    if known is not None:
        return known
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return None
    sock = (
        environ.get("gunicorn.socket")
        or environ.get("gunicorn.sock")  # its gevent_pywsgi worker
        or _of_pywsgi(environ.get("wsgi.input"))
    )
    return None if sock is None else SocketConnection(sock, environ, length)


class SocketConnection(Connection):
    """The socket of a server that speaks HTTP/1 and iterates.

    Its framing is not known, but follows from the head of the response, as it does for the server.
    """

    def __init__(self, sock: Any, environ: WSGIEnvironment, length: int | None) -> None:
        self.sock = sock
        self.progress = Progress(sock)
        self._head_sent = False
        # gunicorn sends the head with an empty chunk, others only with bytes
        self._is_eager = "gunicorn.socket" in environ
        self.written_from_here()
        chunks = environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        self._framing = "length" if length is not None else "chunks" if chunks else "close"

    def written_from_here(self) -> None:
        if cooperative():
            self.writer = _getcurrent()()

    def sent_head(self) -> None:
        self._head_sent = True

    def gave(self, piece: bytes) -> None:
        if piece or self._is_eager:
            self._head_sent = True
        self.progress.go_on()

    def can_probe(self) -> bool:
        return self._framing == "chunks" and self._head_sent

    def probe(self) -> bool:
        try:
            # a chunk-size may have leading zeros (RFC 9112, section 7.1): the next one has this
            self.sock.send(b"0")
        except OSError:
            return False
        return True

    def break_off(self, reason: CloseReason) -> bool:  # noqa: ARG002
        # The server frames an end now, which must not arrive. Where the connection is all there is
        # to tell the end, a reset does, unless the server shuts it down in good order.
        with suppress(OSError):
            if self._framing == "close":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                self.sock.shutdown(socket.SHUT_RDWR)
        return True

    def reset(self, error: OSError) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.throw(error)


def _of_pywsgi(source: Any) -> Any:
    """The socket of gevent.pywsgi, whose input reads from a file made of it."""
    if not type(source).__module__.startswith("gevent."):
        return None
    return getattr(getattr(source.rfile, "raw", None), "_sock", None)


@cache
def _getcurrent() -> Callable[[], Any]:
    from greenlet import getcurrent

    return getcurrent
