"""Stream: the one WSGI iterable, and its endings.

A WSGI server iterates it, writes each chunk, and calls ``close()`` once. Each stream ends
once, for one reason, and at that moment, whichever call brings it about, its source is closed:

    exhausted      the source has no more              the server frames the end
    disconnected   the client left, or the server
                   closed the stream before its end    –
    deadline       its time is over                    the end of an event stream that its client
                                                       asks for again; else it breaks off
    stalled        the client stopped reading          the connection is reset
    draining       the server stops                    a ``retry`` and the end, or it breaks off;
                                                       see DrainKind
    failed         the source raised, or the body was
                   not as long as its Content-Length   logged; the connection breaks off

"Breaks off" means that the final chunk, or the last bytes of Content-Length, stay away, so that
no client takes half a body for a whole one (RFC 9112, section 8). Where the connection is known,
the stream sees to that itself and the iteration just ends: middleware around it has nothing to
report, neither of a client that left nor, a second time, of a failure. Elsewhere ``__next__``
raises StreamAborted: PEP 3333 has no other way to tell a server. An event stream that fails sends
an ``error`` event first, and breaks off a moment later, when its client has read that.

Data goes one way: source, pump, here, server. What comes from the side (the clock, the watch
on the socket, the worker that drains) only leaves a verdict and wakes the writer, which is in
``__next__`` and acts on it. The exception is a client that stopped reading: then the writer
is in the server's send, and is thrown out of it.
"""

from __future__ import annotations

import json
import math
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from werkzeug.exceptions import ClientDisconnected

from .. import sse
from ..bodies.sources import measured
from ..exceptions import ClientStalled, Lagged, StreamAborted
from ..logs import logger
from .connection import Connection
from .environ import DRAIN, request_id, route
from .options import DEFAULT, StreamOptions
from .pumps import InlinePump, Pump, ThreadPump, cooperative
from .record import CloseReason, Snapshot, StreamRecord
from .ticker import Ticker, process_ticker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["FAILED", "Stream", "broken_request"]

log = logger(__name__)

MAX_PIECE = 256 * 1024
"""Bytes given to the server at a time: between two pieces a verdict is acted on."""

STUCK = 1.0
"""Seconds in one send after which a client that is past the deadline has had its time."""

FAREWELL = 0.3
"""Seconds between an ``error`` event and the break: a browser that gets both at once drops the
event.
"""

_MESSAGE = "The stream failed."

FAILED = sse.Event(
    json.dumps(
        {
            "type": "error",
            "error": {"type": "server_error", "message": _MESSAGE},
            "errorText": _MESSAGE,
        }
    ),
    event="error",
).encode()
"""The fields are those that the SDKs of OpenAI and Anthropic and the AI SDK look for."""

_STOPS = ("GeneratorExit", "GreenletExit", "KeyboardInterrupt", "SystemExit")
"""Exceptions that mean "stop", not "the source failed". By name, since gevent is optional."""

_AT_ONCE = (CloseReason.DEADLINE, CloseReason.DISCONNECTED)
"""Verdicts that do not wait for the end of a large item."""


def broken_request(error: BaseException | None) -> ClientDisconnected | None:
    """What says that a request's body did not come whole, if `error` was raised from that."""
    while error is not None and not isinstance(error, ClientDisconnected):
        error = error.__cause__
    return error


class Stream(StreamRecord, Iterator[bytes]):
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
    _bom = b""  # what of the source may be a byte order mark, while that is not known
    _beat: tuple[bytes, float] | None = None
    _boundary: sse.Boundary | None = None  # of an event stream, where something may be put in
    _clock: Ticker | None = None
    _due: bytes | None = None
    _first: float | None = None
    _failed_at: float | None = None  # when the error event was given
    _freed = _told = False
    _is_quiet = False  # whether the server knows by the connection that the body is not whole
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
        policies: StreamOptions = DEFAULT,
        pump: Pump | None = None,
    ) -> None:
        known = request_id(environ)
        super().__init__(route(environ), environ.get(DRAIN), policies.on_end, known)
        together, timed = cooperative(), bool(policies.heartbeat or policies.deadline)
        self._close = close
        self._event_stream = event_stream
        self._drains = policies.drain_for(environ, event_stream=event_stream)
        self._policies = policies
        if length is not None:  # there is no room in it for what is said in between
            chunks = measured(chunks, length, self.route, lambda: self.fields(CloseReason.FAILED))
        else:
            self._beat = policies.beat(event_stream=event_stream)
            if event_stream:
                self._opening = sse.opening(environ["REQUEST_METHOD"])
                self._boundary = sse.Boundary()
        self.connection = Connection.of(environ, length if self._plain else None)
        if self.connection is not None:
            self.connection.limit(policies.send_timeout or None)
        self._pump = pump or _pump(chunks, waits=waits, timed=timed)
        self._pump.flow(self._idle, each=policies.flush == "each")
        if together or timed:
            self._clock = process_ticker(cooperative=together)
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
        if write is None or DRAIN in environ:
            return
        try:  # some servers keep the headers until there are bytes, but not after a write
            write(b"")
        except OSError:  # of the client's socket: it left, which is nobody's failure
            self._decide(CloseReason.DISCONNECTED)
            return
        if self.connection is not None:
            self.connection.sent_head()

    # the writer's side

    def __next__(self) -> bytes:
        self._sending = False
        if self._rest and self._verdict not in _AT_ONCE:
            return self._give(b"")
        if self.last and self.reason is None:
            self._stop(CloseReason.EXHAUSTED)
        if self.reason is not None:
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
        if self.connection is not None:
            self.connection.gave(piece)
            self.connection.progress.go_on()
        if not self._rest:
            if self.reason is None and self._pump.exhausted:
                self.last = True
                self._free()
            elif self.reason is not None:
                self.last = self._is_whole
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
                if not self._event_stream or self._between_lines():
                    return due
            try:
                piece = self._pump.take()
            except StopIteration:
                self._stop(CloseReason.EXHAUSTED)
                return self._over()
            except StreamAborted as error:
                self._stop(CloseReason.FAILED)
                end = self._end()
                raise (error if isinstance(end, StreamAborted) else end) from None
            except Lagged:
                self._stop(CloseReason.STALLED)
                raise self._end() from None
            except BaseException as error:
                if type(error).__name__ in _STOPS:
                    self._stop(CloseReason.DRAINING if self._is_cut else CloseReason.DISCONNECTED)
                    self._settle()
                    raise
                if broken_request(error) is not None:
                    self._stop(CloseReason.DISCONNECTED)
                    raise self._end() from None
                return self._failed(error)
            if piece and self._boundary is not None:
                piece = self._of_events(piece)
            if piece and self._first is None:
                self._first = time.monotonic() - self.start
            if not self._opened:
                self._opened = True
                return self._opening + piece
            if piece:
                return piece

    def _of_events(self, piece: bytes) -> bytes:
        """A piece of an event stream, without a byte order mark: it is not at the start here."""
        if self._first is None:
            piece = self._bom + piece
            if BOM_UTF8.startswith(piece) and not self._pump.exhausted:
                self._bom = b"" if piece == BOM_UTF8 else piece
                return b""
            piece = piece.removeprefix(BOM_UTF8)
        if self._boundary is not None:
            self._boundary.pass_over(piece)
        return piece

    @property
    def _plain(self) -> bool:
        """Whether the body is as long as its source."""
        return True

    @property
    def _is_whole(self) -> bool:
        """Whether the response, which has ended, may look like a whole one."""
        if self.reason in (CloseReason.DEADLINE, CloseReason.DRAINING):
            return self._drains == "end"
        return self.reason is CloseReason.EXHAUSTED

    @property
    def _is_cut(self) -> bool:
        """Whether it is the worker that ends it: its grace period is over."""
        return self._drain is not None and bool(self._drain.draining)

    def _end(self) -> Exception:
        """What ``__next__`` raises of a stream that has ended."""
        if self._failed_at is not None:
            left = self._failed_at + FAREWELL - time.monotonic()
            self._failed_at = None
            if left > 0:
                time.sleep(left)
        assert self.reason is not None
        if not (self._told or self._is_whole or self.connection is None):
            self._is_quiet = self.connection.break_off(self.reason)
        self._settle()
        if self._is_whole or self._is_quiet or self.reason is CloseReason.DISCONNECTED:
            return StopIteration()
        return StreamAborted(f"{self.route}: {self.reason}")

    def _between_lines(self) -> bool:
        """Whether a comment may be put in here."""
        return not self._rest and self._boundary is not None and self._boundary.between_lines

    def _between_events(self) -> bool:
        """Whether an event may be put in here: not within a block of raw text."""
        return not self._rest and self._boundary is not None and self._boundary.between_events

    def _over(self) -> bytes:
        """The piece after all others, in a coding that has one."""
        raise self._end()

    def _failed(self, error: BaseException) -> bytes:
        self._log(error, "%s failed in mid-stream", CloseReason.FAILED)
        self._stop(CloseReason.FAILED)
        if self._between_events():
            self._failed_at = time.monotonic()
            return FAILED if self._opened else self._opening + FAILED
        raise self._end() from None

    def _log(self, error: BaseException, says: str, reason: CloseReason | None) -> None:
        fields = self.fields(reason)
        self._pump.report(partial(log.error, says, self.route, exc_info=error, extra=fields))

    def _conclude(self, reason: CloseReason) -> bytes:
        self._stop(reason)
        if reason is CloseReason.DRAINING and self._due is not None and self._between_lines():
            return self._due
        self._rest = b""
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
        if self._between_lines():
            self._due = sse.COMMENT
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
            if policies.deadline and now - self.start >= policies.deadline + STUCK:
                self._throw(CloseReason.DEADLINE)
            elif self.connection is None or self.connection.limits_writes:
                return
            elif self.connection.progress.still() >= (policies.send_timeout or math.inf):
                self._throw(CloseReason.STALLED)
        elif self._beat is not None and still >= self._beat[1]:
            self._due = self._beat[0]
            self._moved = now
            self._pump.wake()

    def _throw(self, reason: CloseReason) -> None:
        """Have the writer out of a send that lasts."""
        connection = self.connection
        if connection is not None and connection.writer is not None and not self._thrown:
            self._thrown, self._verdict = True, reason
            connection.reset(ClientStalled())

    def drain(self, retry: int) -> None:
        if self._drains != "finish" and self.reason is None:
            if self._event_stream:
                self._due = sse.Event(retry=retry).encode()
            self._decide(CloseReason.DRAINING)

    # the endings

    def close(self) -> None:
        """Called by the server when it is done with the stream, whatever happened."""
        if self.connection is not None and self.connection.stalled:
            self._verdict, self._thrown = CloseReason.STALLED, True
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
            except Exception as error:
                self._log(error, "%s: closing its source failed", self.reason)

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


def _pump(chunks: Iterator[bytes], *, waits: bool, timed: bool) -> Pump:
    """The pump for a source. waits: whether the source may wait. timed: whether it is timed."""
    if waits and cooperative():
        from .greenlet_pump import GreenletPump

        return GreenletPump(chunks)
    return ThreadPump(chunks) if waits and timed else InlinePump(chunks)
