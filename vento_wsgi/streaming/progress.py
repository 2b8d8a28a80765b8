"""Progress: how long a client has taken nothing of what is sent to it."""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import Any

__all__ = ["Progress", "queued"]

_TCP_INFO = 11
_ACKNOWLEDGED = 120
"""Where tcp_info of Linux has tcpi_bytes_acked, a number of 64 bits."""


class Progress:
    """How long a client has taken nothing of what waits for it.

    A client takes something when its kernel acknowledges bytes. The server's side of the socket
    does not tell: it becomes writable only when a third of its buffer is free, so that a client
    that is slow makes progress all the time and a server that waits to write sees none.
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
            return -queued(sock.fileno())
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED + 8)
        return int(struct.unpack_from("Q", info, _ACKNOWLEDGED)[0])
    except (OSError, ValueError, struct.error):
        return None


def queued(descriptor: int) -> int:
    """Bytes in a socket's queue that the other side has not taken. Raises OSError."""
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))
    return int(count)
