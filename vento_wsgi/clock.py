"""Clock: the one coarse ticker of a process; Watch: whether a client is still there.

A timer for each stream would cost more than the streams. The clock has one, and asks its
members in turn. Under gevent it is a timer of the loop, elsewhere a thread; it runs while it
has members, and is made when the first of them comes, never at import.

How a departure is told: a client that closes its connection sends FIN, and so does one that
only has no more to say (``nc -N``, a half-closed socket). Both look the same until something
is sent: then the one who left answers RST. So FIN is answered with a probe, a few bytes that
change nothing (see Stream), and RST is the proof. A socket can also be readable because of
bytes that nobody wants yet, a pipelined request or a TLS alert; these hide the FIN behind
them from a reader, but not from poll() on Linux, which has POLLRDHUP. macOS does not: there a
reader looks, and a departure behind unread bytes is noticed at the next write.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from .logs import logger

__all__ = ["Clock", "Member", "Watch", "clock"]

log = logger(__name__)

TICK = 0.25
"""Seconds: policies are in whole ones, so asking every stream four times in each is enough."""

BEAT = 0.05
"""Seconds: how late a departure behind unread bytes is seen; half of what is promised."""


class Member(Protocol):
    """What a clock asks."""

    def tick(self, now: float) -> None:
        """Called every TICK with time.monotonic()."""


class Clock:
    """Asks its members every tick, for as long as there are any."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.suspects: set[Watch] = set()
        self._ticking = self._beating = False
        self._lock = threading.Lock()

    def add(self, member: Member) -> None:
        self.members.add(member)
        if not self._ticking:
            with self._lock:
                starts, self._ticking = not self._ticking, True
            if starts:
                self._run(TICK, self._tick)

    def suspect(self, watch: Watch) -> None:
        """Ask `watch` every beat until it is taken out of the suspects."""
        self.suspects.add(watch)
        if not self._beating:
            self._beating = True
            self._run(BEAT, self._beat)

    def _tick(self) -> bool:
        now = time.monotonic()
        for member in tuple(self.members):
            _ask(member.tick, now)
        with self._lock:
            self._ticking = False  # first: who is added from here on sees it, or is seen
            self._ticking = bool(self.members)
        return self._ticking

    def _beat(self) -> bool:
        for watch in tuple(self.suspects):
            _ask(watch.check)
        self._beating = bool(self.suspects)
        return self._beating

    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        """Call `step` every `interval` seconds until it says False."""

        def run() -> None:
            while step():
                time.sleep(interval)

        threading.Thread(target=run, name="vento_wsgi clock", daemon=True).start()


def _ask(question: Callable[..., None], *arguments: float) -> None:
    try:
        question(*arguments)
    except Exception:  # of one: the others are asked all the same
        log.exception("a member of the clock failed")


class _LoopClock(Clock):
    def _run(self, interval: float, step: Callable[[], bool]) -> None:
        from gevent import get_hub

        timer = get_hub().loop.timer(interval, interval, ref=False)

        def run() -> None:
            if not step():
                timer.stop()
                timer.close()

        timer.start(run)


_clock: Clock | None = None


def clock(*, cooperative: bool) -> Clock:
    """The clock of this process, made when first asked for."""
    global _clock
    if _clock is None:
        _clock = _LoopClock() if cooperative else Clock()
    return _clock


def _forget() -> None:
    global _clock
    _clock = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)  # timers and threads are the parent's


class Watch:
    """Watches a socket from gevent's loop.

    left: called once, when the client has gone. probe: called once, when it has closed its
    side; should have something sent that shows which of the two it is.
    """

    __slots__ = ("_clock", "_closed", "_io", "_left", "_poll", "_probe", "_sock")

    def __init__(
        self, sock: Any, watcher: Clock, left: Callable[[], None], probe: Callable[[], None]
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
