"""Whether a client is still there: noticed by watching its socket.

How a departure is told: a client that closes its connection sends FIN, and so does one that
only has no more to say (``nc -N``, a half-closed socket). Both look the same until something
is sent: then the one who left answers RST. So FIN is answered with a probe, a few bytes that
change nothing (see Stream), and RST is the proof. A socket can also be readable because of
bytes that nobody wants yet, a pipelined request or a TLS alert; these hide the FIN behind
them from a reader, but not from poll() on Linux, which has POLLRDHUP. macOS does not: there a
reader looks, and a departure behind unread bytes is noticed at the next write.
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

    left: called once, when the client has gone. probe: called once, when it has closed its
    side; should have something sent that shows which of the two it is.
    """

    __slots__ = ("_clock", "_closed", "_io", "_left", "_poll", "_probe", "_sock")

    def __init__(
        self, sock: Any, watcher: Ticker, left: Callable[[], None], probe: Callable[[], None]
    ) -> None:
        from gevent import get_hub

        self._clock = watcher
        self._sock = sock
        self._left = left
        self._probe: Callable[[], None] | None = probe
        self._poll: Any = None
        self._closed = False
        self._io: Any = get_hub().loop.io(sock.fileno(), 1, ref=False)
        self._io.start(self._readable)

    def _readable(self) -> None:
        # bytes or FIN stay readable: from here on the clock asks
        from gevent.monkey import get_original

        self._io.stop()
        self._poll = get_original("select", "poll")()
        self._poll.register(self._sock.fileno(), getattr(select, "POLLRDHUP", 0))
        self._clock.suspect(self)
        self.check()

    def check(self) -> None:
        """Ask the kernel; called in the loop while the socket is suspect."""
        if self._closed:
            return
        found = self._poll.poll(0)  # errors and hang-ups are found unasked
        events = found[0][1] if found else 0
        if hasattr(select, "POLLRDHUP"):
            gone = events & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
        else:  # there a FIN alone may be POLLHUP
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
            self._clock.suspects.discard(self)
            self._io.stop()
            self._io.close()


def _peeked(fd: int) -> tuple[bool, bool]:
    """Whether a reader of the socket finds its end, and whether it finds an error."""
    from gevent.monkey import get_original

    sock: Any = get_original("socket", "socket")(fileno=fd)
    try:
        sock.setblocking(False)  # as gevent has it
        return sock.recv(1, socket.MSG_PEEK) == b"", False
    except BlockingIOError:
        return False, False
    except OSError:
        return False, True
    finally:
        sock.detach()
