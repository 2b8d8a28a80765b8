"""Notice that a client has left, by watching its socket.

A client that closes its connection sends FIN. So does a client that only closes its sending side
and still reads (``nc -N``). The two look the same until something is sent: a client that has left
answers with RST. So a FIN leads to a probe, a few bytes that change nothing (see Stream), and RST
is the proof.

A socket can also be readable because of bytes that nobody reads yet: a pipelined request, or a TLS
alert. They hide a FIN behind them from recv(), but not from poll() on Linux, which has POLLRDHUP.
macOS has no POLLRDHUP. There recv() looks for the FIN, and a departure behind unread bytes is
noticed at the next write.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

from .ticker import Ticker

__all__ = ["DisconnectWatcher"]


class DisconnectWatcher:
    """Watches a socket from gevent's loop.

    left: called once, when the client has gone. probe: called once, when the client has closed
    its sending side; it should send something, which shows whether the client still reads.
    """

    __slots__ = ("_closed", "_io", "_left", "_poll", "_probe", "_sock", "_ticker")

    def __init__(
        self, sock: Any, ticker: Ticker, left: Callable[[], None], probe: Callable[[], None]
    ) -> None:
        from gevent import get_hub

        self._ticker = ticker
        self._sock = sock
        self._left = left
        self._probe: Callable[[], None] | None = probe
        self._poll: Any = None
        self._closed = False
        self._io: Any = get_hub().loop.io(sock.fileno(), 1, ref=False)
        self._io.start(self._readable)

    def _readable(self) -> None:
        # unread bytes or a FIN keep it readable: from now on the ticker calls check()
        from gevent.monkey import get_original

        self._io.stop()
        self._poll = get_original("select", "poll")()
        self._poll.register(self._sock.fileno(), getattr(select, "POLLRDHUP", 0))
        self._ticker.suspect(self)
        self.check()

    def check(self) -> None:
        """Called in the loop while the socket is suspect: ask the kernel."""
        if self._closed:
            return
        found = self._poll.poll(0)  # errors and hang-ups are always reported
        events = found[0][1] if found else 0
        if hasattr(select, "POLLRDHUP"):
            gone = events & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
        else:  # on macOS a FIN alone may be POLLHUP
            gone = events & (select.POLLERR | select.POLLNVAL)
            if not gone:
                events, gone = _peeked(self._sock.fileno())
        if gone:
            self.close()
            self._left()
        elif events and self._probe is not None:
            probe, self._probe = self._probe, None
            probe()

    def close(self) -> None:
        """Stop watching; further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._ticker.suspects.discard(self)
            self._io.stop()
            self._io.close()


def _peeked(fd: int) -> tuple[bool, bool]:
    """Whether a read of the socket would find its end, and whether it would find an error."""
    from gevent.monkey import get_original

    sock: Any = get_original("socket", "socket")(fileno=fd)
    try:
        sock.setblocking(False)  # as gevent keeps it
        return sock.recv(1, socket.MSG_PEEK) == b"", False
    except BlockingIOError:
        return False, False
    except OSError:
        return False, True
    finally:
        sock.detach()
