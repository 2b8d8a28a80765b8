"""Connection: what a stream may know of, and do to, its client's connection.

StreamWorker says it all, by the object at ``environ["vento_wsgi.connection"]``. Other servers
do not; there the socket is found where they keep it, and the framing follows from the head of the
response, as it does for them. Where neither is known, the next chunk tells what there is to know.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from .disconnect import DisconnectWatcher
from .environ import CONNECTION
from .pumps import cooperative
from .record import CloseReason
from .ticker import Ticker

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["RESET", "Connection", "Progress", "ServerConnection"]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that throws away what the client has not taken."""

_TCP_INFO = 11
_ACKNOWLEDGED = 120
"""Where tcp_info of Linux has tcpi_bytes_acked, a number of 64 bits."""


class ServerConnection(Protocol):
    """What a server says of the connection that it answers a request on.

    sock: the client's socket. chunked: whether the body is framed in chunks. headers_sent:
    whether the head has left. stalled: whether a write was given up since the client took
    nothing. send_timeout: seconds without progress after which it is; None for no limit.
    forwarded: whom a proxy speaks for, as it says.
    """

    sock: Any
    chunked: bool
    headers_sent: bool
    stalled: bool
    send_timeout: float | None

    @property
    def forwarded(self) -> str: ...

    def break_off(self, reason: CloseReason) -> bool:
        """Have the response end in such a way that nobody takes it for whole.

        False if the server cannot, and the stream has to raise StreamAborted.
        """


class Connection:
    """The connection of one response that speaks HTTP/1, as its stream sees it.

    writer: the greenlet that the server sends from. progress: how the client takes what is sent.
    """

    __slots__ = (
        *("_framing", "_head_sent", "_is_eager", "_server", "_socket", "_watch"),
        *("progress", "writer"),
    )

    def __init__(self, sock: Any, environ: WSGIEnvironment, length: int | None) -> None:
        self._socket = sock
        self._server: ServerConnection | None = environ.get(CONNECTION)
        self._watch: DisconnectWatcher | None = None
        self.progress = Progress(sock)
        self._head_sent = False
        # gunicorn sends the head with an empty chunk, others only with bytes
        self._is_eager = "gunicorn.socket" in environ
        self.writer: Any = None
        self.written_from_here()
        chunks = environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        self._framing = "length" if length is not None else "chunks" if chunks else "close"

    @classmethod
    def of(cls, environ: WSGIEnvironment, length: int | None) -> Connection | None:
        """The connection of a request, where the server shows it. length: its Content-Length."""
        if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
            return None
        server: ServerConnection | None = environ.get(CONNECTION)
        sock = (
            server.sock
            if server is not None
            else environ.get("gunicorn.socket")
            or environ.get("gunicorn.sock")  # its gevent_pywsgi worker
            or _of_pywsgi(environ.get("wsgi.input"))
        )
        return None if sock is None else cls(sock, environ, length)

    def written_from_here(self) -> None:
        """Called by the writer: the response may have been made in another greenlet."""
        if cooperative():
            self.writer = _getcurrent()()

    def sent_head(self) -> None:
        """Called when the head has left without any bytes of the body."""
        self._head_sent = True

    def gave(self, piece: bytes) -> None:
        """Called by the writer with what the server is about to send."""
        if piece or self._is_eager:
            self._head_sent = True

    @property
    def sock(self) -> Any:
        """The client's socket."""
        return self._socket

    @property
    def forwarded(self) -> str:
        """X-Forwarded-For of the request, where the server keeps it."""
        return "" if self._server is None else self._server.forwarded

    @property
    def limits_writes(self) -> bool:
        """Whether the server itself gives up a client that takes nothing."""
        return self._server is not None

    @property
    def stalled(self) -> bool:
        """Whether it has given one up here."""
        return self._server is not None and self._server.stalled

    def limit(self, send_timeout: float | None) -> None:
        """Have the server give up a client that takes nothing for so many seconds."""
        if self._server is not None:
            self._server.send_timeout = send_timeout

    def watch(self, clock: Ticker, left: Callable[[], None], closed: Callable[[], None]) -> None:
        """Have `left` called when the client has gone, `closed` when it has closed its side."""
        if self._watch is None:
            self._watch = DisconnectWatcher(self._socket, clock, left, closed)

    def can_probe(self) -> bool:
        """Whether the server sends chunks, has sent the head, and so stands between two."""
        if self._server is not None:
            return self._server.chunked and self._server.headers_sent
        return self._framing == "chunks" and self._head_sent

    def probe(self) -> bool:
        """Send what a client that is there does not notice; False if none is. From the writer."""
        try:
            # a chunk-size may have leading zeros (RFC 9112, section 7.1): the next one has this
            self._socket.send(b"0")
        except OSError:
            return False
        return True

    def break_off(self, reason: CloseReason) -> bool:
        """Have the response end so that nobody takes it for whole; False if that cannot be."""
        if self._server is not None:
            return self._server.break_off(reason)
        # The server frames an end now, which must not arrive. Where the connection is all there is
        # to tell the end, a reset does, unless the server shuts it down in good order.
        with suppress(OSError):
            if self._framing == "close":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                self._socket.shutdown(socket.SHUT_RDWR)
        return True

    def reset(self, error: BaseException) -> None:
        """Throw the writer out of its send, and away what the client has not taken."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.throw(error)

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def _of_pywsgi(source: Any) -> Any:
    """The socket of gevent.pywsgi, whose input reads from a file made of it."""
    if not type(source).__module__.startswith("gevent."):
        return None
    return getattr(getattr(source.rfile, "raw", None), "_sock", None)


class Progress:
    """How a client takes what it is sent.

    The kernel asks for more only when a good part of its buffer is free, which may be megabytes:
    a client that is slow makes progress all the time, and a server that waits to write sees none.
    """

    __slots__ = ("_moved", "_sock", "_taken")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._taken: int | None = None
        self._moved = monotonic()

    def still(self) -> float:
        """Seconds since the client has been seen to take something, or since `go_on`."""
        taken = _taken(self._sock)
        if taken != self._taken:
            self._taken = taken
            self.go_on()
        return monotonic() - self._moved

    def go_on(self) -> None:
        """Called when a write has begun, or gone on."""
        self._moved = monotonic()


def _taken(sock: Any) -> int | None:
    """A number that changes when the client's side takes something; None if it is not known."""
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            return -_queued(sock)
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED + 8)
        return int(struct.unpack_from("Q", info, _ACKNOWLEDGED)[0])
    except (OSError, ValueError, struct.error):
        return None


def _queued(sock: Any) -> int:
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
    return int(count)


@cache
def _getcurrent() -> Any:
    from greenlet import getcurrent

    return getcurrent
