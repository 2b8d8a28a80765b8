"""Stream: the one WSGI iterable, and its endings.

A WSGI server iterates it, writes each chunk, and calls ``close()`` once. Each stream ends
once, for one reason, and at that moment, whichever call brings it about, its source is closed:

    exhausted      the source has no more              the server frames the end
    disconnected   the client left, or the server
                   closed the stream before its end    –
    deadline       its time is over                    the end of an event stream; any other
                                                       body is not whole and breaks off
    stalled        the client stopped reading          the connection is reset
    draining       the server stops, and this is an
                   event stream, which can come back   a retry: field, then the end
    failed         the source raised, or the body was
                   not as long as its Content-Length   logged; the connection breaks off

"Breaks off" is StreamAborted out of ``__next__``: PEP 3333 has no other way to tell a server
that headers are gone and the body will never be whole. The final chunk, or the last bytes of
Content-Length, stay away, so that no client takes half a body for a whole one (RFC 9112,
section 8). An event stream gets an ``error`` event first.

Data goes one way: source, pump, here, server. What comes from the side (the clock, the watch
on the socket, the worker that drains) only leaves a verdict and wakes the writer, which is in
``__next__`` and acts on it. The exception is a client that stopped reading: then the writer
is in the server's send, and is thrown out of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from . import sse
from .account import Account, CloseReason, Snapshot
from .body import measured
from .clock import Clock, clock
from .exceptions import StreamAborted
from .keys import DRAIN, route
from .policies import DEFAULT, Policies
from .pump import Pump, cooperative, pump_for

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .connection import Connection

__all__ = ["FAILED", "Stream"]

log = logging.getLogger(__name__)

MAX_PIECE = 256 * 1024
"""Bytes given to the server at a time: what a client must take within its send_timeout."""

STUCK = 1.0
"""Seconds in one send after which a client that is past the deadline has had its time."""

FAILED = sse.Event("The stream failed.", event="error").encode()

_LEAVES = ("GeneratorExit", "GreenletExit", "KeyboardInterrupt", "SystemExit")
"""What ends a greenlet or the process; by name, since gevent may not be here."""

_BROKEN = (CloseReason.FAILED, CloseReason.STALLED, CloseReason.DEADLINE)


class Stream(Account, Iterator[bytes]):
    """The chunks of a response for a WSGI server, with one ending.

    chunks: bytes, none of them empty. close: frees the source; called once.
    event_stream: whether a comment opens it and an ``error`` event tells of a failure.
    length: the Content-Length in bytes, where one was sent: never more, and less is a failure.
    waits: whether the source may wait for something; a file does not.
    pump: of chunks, if it runs already.

    `last` is whether the body is whole with the piece given last.
    """

    connection: Connection | None = None
    last = False

    _backlog = 0
    _beat: tuple[bytes, float] | None = None
    _boundary: sse.Boundary | None = None  # of blocks, where something may be said between them
    _clock: Clock | None = None
    _due: bytes | None = None
    _first: float | None = None
    _freed = _told = False
    _opened = False
    _opening = b""
    _probing = False
    _rest: bytes | memoryview = b""
    _sending = False
    _thrown = False
    _verdict: CloseReason | None = None

    def __init__(
        self,
        chunks: Iterator[bytes],
        close: Callable[[], object],
        environ: WSGIEnvironment,
        *,
        event_stream: bool = False,
        length: int | None = None,
        waits: bool = True,
        policies: Policies = DEFAULT,
        pump: Pump | None = None,
    ) -> None:
        super().__init__(route(environ), environ.get(DRAIN), policies.on_end)
        together, timed = cooperative(), bool(policies.heartbeat or policies.deadline)
        self._close = close
        self._event_stream = event_stream
        self._policies = policies
        if length is not None:  # there is no room in it for what is said in between
            chunks = measured(chunks, length, self.route)
        else:
            self._beat = policies.beat(event_stream=event_stream)
            if event_stream:
                self._opening, self._boundary = sse.OPENING, sse.Boundary()
        if together:
            self.connection = _connections().of(environ)
        self._pump = pump or pump_for(chunks, waits=waits, timed=timed)
        self._pump.flow(self._idle, each=policies.flush == "each")
        if together or timed:
            self._clock = clock(cooperative=together)
            self._clock.add(self)
        self._enter()

    def begin(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        status: str,
        headers: list[tuple[str, str]],
    ) -> None:
        """Start the response whose body this is: its headers leave before the first chunk."""
        write = start_response(status, headers)
        if self.connection is not None:
            self.connection.server = getattr(start_response, "__self__", None)
        if write is None or DRAIN in environ:
            return
        try:  # some servers keep the headers until there are bytes, but not after a write
            write(b"")
        except OSError as error:
            raise StreamAborted("the client left before the headers") from error

    # the writer's side

    def __next__(self) -> bytes:
        self._sending = False
        if self._rest:
            return self._give(b"")
        if self.last and self.reason is None:
            self._stop(CloseReason.EXHAUSTED)
        if self.reason is not None:
            self._settle()
            raise self._end()
        return self._give(self._take())

    def _give(self, piece: bytes) -> bytes:
        if len(piece) > MAX_PIECE:
            self._rest = memoryview(piece)
        if self._rest:
            piece, self._rest = bytes(self._rest[:MAX_PIECE]), self._rest[MAX_PIECE:]
        if piece:
            self.sent += len(piece)
            self.pieces += 1
            if self._boundary is not None:
                self._boundary.pass_over(piece)
        if not self._rest:
            if self.reason is None and self._pump.exhausted:
                self.last = True
                self._free()
            elif self.reason is not None:
                self.last = isinstance(self._end(), StopIteration)
        self._moved = time.monotonic()
        self._sending = True
        return piece

    def _take(self) -> bytes:
        if not self._opened:
            if self.connection is not None:
                self.connection.written_from_here()
            if not self._pump.tells_idle:
                self._opened = True
                return self._opening
        while True:
            if self._probing and self.connection is not None:
                self._probing = False
                if not self.connection.probe():
                    self._decide(CloseReason.DISCONNECTED)
            if self._verdict is not None:
                return self._conclude(self._verdict)
            if self._due is not None:
                due, self._due = self._due, None
                if not self._event_stream or self._between_blocks():
                    return due
            try:
                piece = self._pump.take()
            except StopIteration:
                self._stop(CloseReason.EXHAUSTED)
                return self._over()
            except StreamAborted:
                self._stop(CloseReason.FAILED)
                self._settle()
                raise
            except BaseException as error:
                if type(error).__name__ in _LEAVES:
                    self._stop(CloseReason.DISCONNECTED)
                    self._settle()
                    raise
                return self._failed(error)
            if piece and self._first is None:
                self._first = time.monotonic() - self.start
            if not self._opened:
                self._opened = True
                return self._opening + piece
            if piece:
                return piece

    def _end(self) -> Exception:
        """What ``__next__`` raises of a stream that has ended."""
        if self.reason not in _BROKEN or (
            self.reason is CloseReason.DEADLINE and self._event_stream
        ):
            return StopIteration()
        return StreamAborted(f"{self.route}: {self.reason}")

    def _between_blocks(self) -> bool:
        """Whether something may be said in an event stream: not within a block of raw text."""
        return self._boundary is not None and self._boundary.reached

    def _over(self) -> bytes:
        """The piece after all others, in a coding that has one."""
        self._settle()
        raise self._end()

    def _failed(self, error: BaseException) -> bytes:
        log.error("%s failed in mid-stream", self.route, exc_info=error)
        self._stop(CloseReason.FAILED)
        if self._between_blocks():
            return FAILED
        self._settle()
        raise self._end() from None

    def _conclude(self, reason: CloseReason) -> bytes:
        self._stop(reason)
        if reason is CloseReason.DRAINING and self._due is not None and self._between_blocks():
            return self._due
        if reason is CloseReason.DISCONNECTED:
            self._settle()
            raise StreamAborted(f"{self.route}: the client left")
        return self._over()

    @property
    def snapshot(self) -> Snapshot:
        if self.reason is not None or self._verdict is not None:
            state = "ending"
        elif self.pieces:
            state = "sending" if self._sending else "waiting"
        else:
            state = "starting"
        sock, forwarded = None, ""
        if self.connection is not None:
            sock, forwarded = self.connection.sock, self.connection.forwarded
        sizes = self.sent, self.pieces, len(self._rest), 0
        return Snapshot(self.route, self.start, self._moved, *sizes, state, sock, forwarded)

    # from the side: the loop, or the clock's thread

    def _idle(self) -> bool:
        if not self._opened:
            self._pump.wake()
            return True
        if self.connection is not None and self._clock is not None:
            self.connection.watch(self._clock, self._gone, self._half_closed)
        return False

    def _gone(self) -> None:
        self._decide(CloseReason.DISCONNECTED)

    def _half_closed(self) -> None:
        if self._between_blocks():
            self._due = sse.OPENING
        elif self.connection is not None and self.connection.can_probe():
            self._probing = True
        else:
            return
        self._pump.wake()

    def _decide(self, verdict: CloseReason) -> None:
        if self.reason is None and self._verdict is None:
            self._verdict = verdict
            self._pump.wake()

    def tick(self, now: float) -> None:
        """Called by the clock: is anything due?"""
        policies, still = self._policies, now - self._moved
        over = policies.deadline and now - self.start >= policies.deadline
        if over:
            self._decide(CloseReason.DEADLINE)
        if self._sending:
            if over and still >= STUCK:
                self._throw(CloseReason.DEADLINE)
            elif policies.send_timeout and still >= policies.send_timeout:
                self._throw(CloseReason.STALLED)
        elif self._beat is not None and still >= self._beat[1]:
            self._due = self._beat[0]
            self._moved = now
            self._pump.wake()

    def _throw(self, reason: CloseReason) -> None:
        """Have the writer out of a send that lasts."""
        if self.connection is not None and not self._thrown:
            self._thrown, self._verdict = True, reason
            self.connection.reset(StreamAborted(f"{self.route}: the client stopped reading"))

    def drain(self, retry: int) -> None:
        if self._event_stream and self.reason is None:
            self._due = sse.Event(retry=retry).encode()
            self._decide(CloseReason.DRAINING)

    # the endings

    def close(self) -> None:
        """Called by the server when it is done with the stream, whatever happened."""
        if self.reason is None:
            self._stop(self._verdict or CloseReason.DISCONNECTED)
        elif self._thrown and self._verdict is not None:
            self.reason = self._verdict
        self._settle()

    def _stop(self, reason: CloseReason) -> None:
        self.reason = reason
        self._free()

    def _free(self) -> None:
        if not self._freed:
            self._freed = True
            self._backlog = len(self._rest) + self._pump.waiting
            try:
                self._pump.stop(self._close)
            except Exception:
                log.exception("%s: closing its source failed", self.route)

    def _settle(self) -> None:
        """Say how it ended: when the server has come back for more, or has given up."""
        if self._told or self.reason is None:
            return
        self._told = True
        if self._clock is not None:
            self._clock.members.discard(self)
        if self.connection is not None:
            self.connection.close()
        self._tell(self.reason, self._first, self._backlog)


@cache
def _connections() -> type[Connection]:
    from .connection import Connection

    return Connection
