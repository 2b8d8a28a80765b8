"""Progress: for how long a client has not taken any bytes."""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import Any

__all__ = ["Progress", "queued"]

_TCP_INFO = 11
_ACKNOWLEDGED = 120
"""The offset of tcpi_bytes_acked in Linux's tcp_info: an unsigned 64-bit number."""


class Progress:
    """Measures for how long a client has not taken any of the bytes that wait for it.

    A client takes bytes when its kernel acknowledges them. Whether the server's socket is writable
    says little: it becomes writable only when a third of its buffer is free. A slow client makes
    progress all the time, while a server that waits for room sees none.
    """

    __slots__ = ("_moved", "_sock", "_taken")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._taken: int | None = None
        self._moved = monotonic()

    def still(self) -> float:
        """Seconds since the client was last seen to take bytes, or since `go_on`."""
        taken = _taken(self._sock)
        if taken != self._taken:
            self._taken = taken
            self.go_on()
        return monotonic() - self._moved

    def go_on(self) -> None:
        """Called when a write starts or continues."""
        self._moved = monotonic()


def _taken(sock: Any) -> int | None:
    """A number that changes when the client takes bytes; None if this is not known."""
    try:
        if sock.family == getattr(socket, "AF_UNIX", None):
            return -queued(sock.fileno())
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED + 8)
        return int(struct.unpack_from("Q", info, _ACKNOWLEDGED)[0])
    except (OSError, ValueError, struct.error):
        return None


def queued(descriptor: int) -> int:
    """Bytes in a socket's send queue that the other side has not taken. Raises OSError."""
    import fcntl
    import termios

    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))
    return int(count)
