"""Bytes that a socket did not take, and how long its client has taken nothing.

A send that is short leaves the rest here. It goes on from the loop when the socket has room, so
that nobody has to wait for it. This exists only while a socket is full: a client that keeps up
costs nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from gevent import get_hub

from ..exceptions import ClientStalled
from .progress import Progress
from .ticker import process_ticker
from .turns import turns

__all__ = ["Unsent"]

WRITABLE = 2
"""The event of gevent's loop."""

PIECE = 256 * 1024
"""Bytes offered to a socket at a time: other clients have their turn at least that often."""


class Unsent:
    """The rest of what was sent to a socket.

    parts: what is left, in order; it is not copied. send: of the socket; raises BlockingIOError
    when the socket is full. sent: called in the loop when all has been taken. failed: called in
    the loop when the client has gone (OSError), or has taken nothing for `send_timeout` seconds
    (ClientStalled; None for no limit).
    """

    __slots__ = ("_failed", "_io", "_parts", "_send", "_send_timeout", "_sent", "progress")

    def __init__(
        self,
        sock: Any,
        send: Callable[[Any], int],
        parts: Iterable[memoryview],
        send_timeout: float | None,
        sent: Callable[[], object],
        failed: Callable[[OSError], object],
    ) -> None:
        self.progress = Progress(sock)
        self._parts = deque(parts)
        self._send = send
        self._send_timeout = send_timeout or math.inf
        self._sent, self._failed = sent, failed
        self._io: Any = get_hub().loop.io(sock.fileno(), WRITABLE, ref=False)
        self._io.start(self._go_on)
        process_ticker(cooperative=True).add_idle(self)

    def __len__(self) -> int:
        """Bytes."""
        return sum(map(len, self._parts))

    def add(self, data: bytes | memoryview) -> None:
        """Send `data` after the rest."""
        self._parts.append(memoryview(data))

    def _go_on(self) -> None:
        if turns().is_over:
            return  # it stays writable, and the loop calls again in its next round
        part = self._parts[0]
        try:
            sent = self._send(part[:PIECE])
        except BlockingIOError:
            return
        except OSError as error:
            self.close()
            self._failed(error)
            return
        self.progress.go_on()
        if sent < len(part):
            self._parts[0] = part[sent:]
            return
        self._parts.popleft()
        if not self._parts:
            self.close()
            self._sent()

    def tick(self, now: float) -> None:  # noqa: ARG002
        """Called by the ticker: give up a client that has stopped reading."""
        if self.progress.still() >= self._send_timeout:
            self.close()
            self._failed(ClientStalled())

    def close(self) -> None:
        """Send no more; further calls do nothing."""
        if self._io is not None:
            self._io.stop()
            self._io.close()
            self._io = None
            process_ticker(cooperative=True).idle.discard(self)
