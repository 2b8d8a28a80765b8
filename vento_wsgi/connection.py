"""Connection: what a stream may know and do of its client's connection, beside the server.

Servers do not offer it, so it is found where they keep it, and left alone where it cannot be
understood: then the next chunk tells what there is to know.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from .clock import Clock, Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["RESET", "Connection"]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that throws away what the client has not taken."""


class Connection:
    """The connection of one response on a gevent server that speaks HTTP/1.

    writer: the greenlet that the server sends from. server: the owner of start_response.
    chunked: set where that is not known, when chunks have been announced all the same.
    """

    __slots__ = ("_socket", "_watch", "chunked", "server", "writer")

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._watch: Watch | None = None
        self.writer: Any = getcurrent()
        self.server: Any = None
        self.chunked = False

    @classmethod
    def of(cls, environ: WSGIEnvironment) -> Connection | None:
        """The connection of a request, where the server shows it."""
        if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
            return None
        sock = (
            environ.get("gunicorn.socket")
            or environ.get("gunicorn.sock")  # its gevent_pywsgi worker
            or getattr(environ.get("wsgi.input"), "socket", None)  # gevent.pywsgi
        )
        return None if sock is None else cls(sock)

    def written_from_here(self) -> None:
        """Called by the writer: the response may have been made in another greenlet."""
        self.writer = getcurrent()

    @property
    def sock(self) -> Any:
        """The client's socket."""
        return self._socket

    @property
    def forwarded(self) -> str:
        """X-Forwarded-For of the request, where the server keeps it."""
        fields = getattr(getattr(self.server, "req", None), "headers", ())
        return next((value for name, value in fields if name == "X-FORWARDED-FOR"), "")

    def watch(self, clock: Clock, left: Callable[[], None], closed: Callable[[], None]) -> None:
        """Have `left` called when the client has gone, `closed` when it has closed its side."""
        if self._watch is None:
            self._watch = Watch(self._socket, clock, left, closed)

    def can_probe(self) -> bool:
        """Whether the server sends chunks, has announced them, and so stands between two."""
        if self.server is None:
            return self.chunked
        chunked = getattr(self.server, "chunked", None) or getattr(
            self.server, "response_use_chunked", None
        )
        return bool(chunked and getattr(self.server, "headers_sent", None))

    def probe(self) -> bool:
        """Send what a client that is there does not notice; False if none is. From the writer."""
        try:
            # a chunk-size may have leading zeros (RFC 9112, section 7.1): the next one has this
            self._socket.send(b"0")
        except OSError:
            return False
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
