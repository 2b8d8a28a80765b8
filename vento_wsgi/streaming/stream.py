"""A stream: the body of a response in progress, and its one ending.

A stream ends once, for one reason. At that moment, whichever call brings it about, its source is
closed:

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
no client takes half a body for a whole one (RFC 9112, section 8). An event stream that fails sends
an ``error`` event first, and breaks off a moment later, when its client has read that.

There are two ways to the socket:

- `run`: the source pushes its chunks into the connection (see writer.py), in the greenlet of the
  request. StreamWorker does this. What happens from outside acts at once: a heartbeat is sent, and
  a source that has to stop is interrupted where it waits, by an exception thrown into it.
- `iter`: the server, or middleware around the stream, takes the chunks (see iteration.py). The
  source runs beside them in a greenlet or a thread of its own, where there is one.
"""

from __future__ import annotations

import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .. import sse
from ..bodies.sources import measured
from ..exceptions import ClientStalled, Lagged, StreamAborted
from ..logs import logger
from .connection import Connection, connection_of
from .disconnect import DisconnectWatcher
from .endings import FAILED, FAREWELL, STOPS, Interruption, broken_request
from .iteration import Iteration
from .lifecycle import Lifecycle
from .options import DEFAULT, StreamOptions
from .pumps import Pump, cooperative
from .record import CloseReason, Snapshot
from .ticker import Ticker, process_ticker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Encoder", "Stream"]

log = logger(__name__)


class Encoder(Protocol):
    """A body on its way into a content coding (RFC 9110, section 8.4.1)."""

    def encode(self, piece: bytes) -> bytes:
        """A piece, with all that is needed to decode it now."""

    def finish(self, piece: bytes = b"") -> bytes:
        """The last piece, and the end."""


class Stream(Lifecycle):
    """The body of a response, for a WSGI server.

    chunks: bytes, none of them empty. close: frees the source; called once.
    event_stream: whether a comment opens it and an ``error`` event tells of a failure.
    length: the Content-Length in bytes, where one was sent: never more, and less is a failure.
    waits: whether the source may wait for something; a file does not.
    pump: of chunks, if it runs already. encoder: codes what is sent.
    """

    __slots__ = (
        *("_backlog", "block", "_bom", "_boundary", "_chunks", "_close", "_encoder", "_first"),
        *("_freed", "_runs", "_iteration", "_opening", "_pump", "_ticker", "_told", "verdict"),
        *("_waits", "_watcher", "connection", "__weakref__"),
    )

    def __init__(
        self,
        chunks: Iterator[bytes],
        close: Callable[[], object],
        environ: WSGIEnvironment,
        *,
        event_stream: bool = False,
        length: int | None = None,
        waits: bool = True,
        options: StreamOptions = DEFAULT,
        pump: Pump | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.connection: Connection | None = connection_of(
            environ, length if encoder is None else None
        )
        # where there is a length, nothing can be put in between
        beat = options.beat(event_stream=event_stream) if length is None else None
        drain = None if self.connection is None else self.connection.drain
        super().__init__(environ, drain, options, beat, event_stream=event_stream)
        self._opening = b""
        self._boundary: sse.Boundary | None = None
        if length is not None:
            chunks = measured(chunks, length, self.route, lambda: self.fields(CloseReason.FAILED))
        elif event_stream:
            self._opening = sse.opening(environ["REQUEST_METHOD"])
            self._boundary = sse.Boundary()
        self._chunks = chunks
        self._close = close
        self._waits = waits
        self._pump = pump
        self._encoder = encoder
        self._iteration: Iteration | None = None
        self._runs = False  # through its connection
        self._watcher: DisconnectWatcher | None = None
        self._ticker: Ticker | None = None
        self.verdict: CloseReason | None = None  # why it is to end
        self.block = b""  # what it sends last then
        self._bom = b""  # of the source, what may be a byte order mark
        self._first: float | None = None
        self._backlog = 0
        self._freed = self._told = False
        if self.connection is not None:
            self.connection.limit(options.send_timeout or None)
        self._enter()

    def begin(
        self, start_response: StartResponse, status: str, headers: list[tuple[str, str]]
    ) -> None:
        """Start the response whose body this is: its headers leave before the first chunk."""
        write = start_response(status, headers)
        connection = self.connection
        if write is None or (connection is not None and connection.can_push):
            return
        try:  # some servers keep the headers until there are bytes, but not after a write
            write(b"")
        except OSError:  # of the client's socket: it left, which is nobody's failure
            self._abort(CloseReason.DISCONNECTED)
            return
        if connection is not None:
            connection.sent_head()

    # the way through the connection

    @property
    def can_run(self) -> bool:
        """Whether it can push its chunks: a pump that runs already takes them elsewhere."""
        return self._pump is None

    def run(self, connection: Connection) -> None:
        """Send all of it through its connection. From the greenlet of the request."""
        self._runs = True
        try:
            if self.verdict is None:
                connection.push(self._chunks, self, each=self.options.flush == "each")
        except BaseException as error:
            reason = self.reason_of(error)
            if self.verdict is not None and not isinstance(error, GeneratorExit | OSError):
                self.log_error(error, "%s: its source failed as it was interrupted", reason)
            self._break(connection, reason, error)
            if type(error).__name__ in STOPS and self.verdict is None:
                raise
            return
        try:
            if self.verdict is None:
                connection.finish()
        except OSError as error:
            self._break(connection, self.reason_of(error), error)
            return
        if self.verdict is None:
            self.stop(CloseReason.EXHAUSTED)
        else:
            self._break(connection, self.verdict, None)

    def _break(
        self, connection: Connection, reason: CloseReason, error: BaseException | None
    ) -> None:
        """End for another reason than that the source has no more."""
        connection.send_ready()
        if reason is CloseReason.FAILED and not isinstance(error, StreamAborted):
            assert error is not None
            self.log_error(error, "%s failed in mid-stream", reason)
        self.stop(reason)
        last = FAILED if reason is CloseReason.FAILED and self.between_events else b""
        if reason is CloseReason.DRAINING and self.between_lines:
            last = self.block
        try:
            if self.is_whole:
                connection.finish(last)
                return
            if last:
                connection.flush()
                connection.say(self.outgoing(last))
                connection.wait_for_room()
            if last is FAILED:
                time.sleep(FAREWELL)
        except OSError:
            pass  # the client does not get the end either
        connection.break_off(reason)

    def _interrupt(self) -> None:
        """Have the source stop where it waits."""
        if self._runs and self.connection is not None:
            self.connection.interrupt(Interruption)

    # Outlet: its bytes on their way

    def outgoing(self, data: bytes) -> bytes:
        """What is sent for `data` of the source; b"" asks for what opens the stream."""
        if data and self._boundary is not None:
            data = self._events(data)
        if data and self._first is None:
            self._first = time.monotonic() - self.start
        if self._opening:
            data, self._opening = self._opening + data, b""
        if not data:
            return b""
        if self._encoder is not None:
            data = self._encoder.encode(data)
        self.sent += len(data)
        self.pieces += 1
        self._moved = time.monotonic()
        return data

    def last(self, block: bytes) -> bytes:
        """What is sent last: `block`, and the end of the coding."""
        data = self.outgoing(block) if block else b""
        if self._encoder is not None:
            end = self._encoder.finish()
            self.sent += len(end)
            data += end
        return data

    def _events(self, data: bytes) -> bytes:
        """Data of an event stream without a byte order mark, since it is not at the start here."""
        assert self._boundary is not None
        if self._first is None:
            data = self._bom + data
            if BOM_UTF8.startswith(data):
                self._bom = b"" if data == BOM_UTF8 else data
                return b""
            data = data.removeprefix(BOM_UTF8)
        self._boundary.pass_over(data)
        return data

    def paused(self) -> None:
        """Called in the loop when the source waits for the first time."""
        if self.reason is None and self.connection is not None:
            self._ticker = process_ticker(cooperative=True)
            self._ticker.add(self)
            self.watch()

    def failed(self, error: OSError) -> None:
        """Called when nothing more can be sent to the client."""
        if self.verdict is None and self.reason is None:
            stalled = isinstance(error, ClientStalled)
            self.verdict = CloseReason.STALLED if stalled else CloseReason.DISCONNECTED
        self._interrupt()

    @property
    def between_lines(self) -> bool:
        """Whether a comment may be put in here."""
        return self._boundary is not None and self._boundary.between_lines

    @property
    def between_events(self) -> bool:
        """Whether an event may be put in here: not within a block of raw text."""
        return self._boundary is not None and self._boundary.between_events

    # the way of servers that iterate

    def __iter__(self) -> Iterator[bytes]:
        if self._iteration is None:
            timed = bool(self.options.heartbeat or self.options.deadline)
            self._iteration = Iteration(self, self._chunks, self._pump, waits=self._waits)
            if cooperative() or timed:
                # before the source runs: a deadline counts from the start
                self._ticker = process_ticker(cooperative=cooperative())
                self._ticker.add(self)
        return self._iteration

    # Lifecycle

    def tick(self, now: float) -> None:
        if not self._told:
            super().tick(now)
        if self._iteration is not None:
            self._iteration.tick()

    @property
    def _is_silent(self) -> bool:
        if self._iteration is not None:
            return not self._iteration.is_sending
        return self.connection is not None and not self.connection.is_full

    def _say(self, block: bytes) -> None:
        if self._event_stream and not self.between_lines:
            return
        if self._iteration is not None:
            self._iteration.say(block)
        elif self.connection is not None and self.connection.is_pushing:
            self.connection.send_ready()
            if not self.connection.is_full:
                self.connection.say(self.outgoing(block))

    def half_closed(self) -> None:
        if self.between_lines:
            self._say(sse.COMMENT)
        elif self._iteration is not None:
            self._iteration.probe()
        elif (
            self.connection is not None
            and self.connection.can_probe()
            and not self.connection.probe()
        ):
            self.left()

    def _finish(self, reason: CloseReason, block: bytes) -> None:
        if self.reason is None and self.verdict is None:
            self.verdict, self.block = reason, block
            if self._iteration is not None:
                self._iteration.wake()
            else:
                self._interrupt()

    def _abort(self, reason: CloseReason) -> None:
        if self._told:
            return
        if self._iteration is not None:
            self._iteration.abort(reason)
            return
        self.verdict = self.verdict or reason
        if self._runs and self.connection is not None:
            self.connection.reset(StreamAborted(f"{self.route}: {reason}"))

    def watch(self) -> None:
        """Watch the client's socket from here on: the source waits, and may wait for long."""
        sock = None if self.connection is None else self.connection.sock
        if self._watcher is None and sock is not None and self._ticker is not None:
            self._watcher = DisconnectWatcher(sock, self._ticker, self.left, self.half_closed)

    @property
    def is_event_stream(self) -> bool:
        return self._event_stream

    @property
    def snapshot(self) -> Snapshot:
        iteration, connection = self._iteration, self.connection
        waits = 0 if iteration is None else iteration.waiting
        if iteration is None and connection is not None:
            waits = connection.waiting
        sending = waits > 0 if iteration is None else iteration.is_sending
        if self.reason is not None or self.verdict is not None:
            state = "ending"
        elif self.pieces:
            state = "sending" if sending else "waiting"
        else:
            state = "starting"
        sock = None if connection is None else connection.sock
        forwarded = "" if connection is None else connection.forwarded
        sizes = self.sent, self.pieces, waits, 0
        return Snapshot(self.route, self.start, self._moved, *sizes, state, sock, forwarded)

    # the endings

    def reason_of(self, error: BaseException) -> CloseReason:
        """Why it ends, when `error` was raised out of the source or by a send."""
        if self.verdict is not None:
            return self.verdict
        if isinstance(error, (ClientStalled, Lagged)):
            return CloseReason.STALLED
        if type(error).__name__ in STOPS:
            cut = self._drain is not None and self._drain.draining  # its grace period is over
            return CloseReason.DRAINING if cut else CloseReason.DISCONNECTED
        if broken_request(error) is not None:
            return CloseReason.DISCONNECTED
        return CloseReason.FAILED

    @property
    def is_whole(self) -> bool:
        """Whether the response, which has ended, may look like a whole one."""
        if self.reason in (CloseReason.DEADLINE, CloseReason.DRAINING):
            return self.ends_whole
        return self.reason is CloseReason.EXHAUSTED

    def close(self) -> None:
        """Called by the server when it is done with the stream, whatever happened."""
        if self.connection is not None and self.connection.stalled:
            self.verdict = CloseReason.STALLED
            self.reason = self.reason and self.verdict  # it had ended for the source already
        if self._iteration is not None and self._iteration.thrown:
            self.reason = self.reason and self.verdict
        if self.reason is None:
            self.stop(self.verdict or CloseReason.DISCONNECTED)
        self.settle()
        self._iteration = None  # which leads back here

    def stop(self, reason: CloseReason) -> None:
        if self.reason is None:
            self.reason = reason
        self.free()

    def free(self) -> None:
        if self._freed:
            return
        self._freed = True
        close, self._close = self._close, _nothing
        self._chunks = iter(())  # both lead to the response and to what its source has
        try:
            if self._iteration is not None:
                self._backlog = self._iteration.waiting
                self._iteration.stop(close)
            elif self._pump is not None:
                self._pump.stop(close)
            else:
                if self.connection is not None:
                    self._backlog = self.connection.waiting
                close()
        except Exception as error:
            self.log_error(error, "%s: closing its source failed", self.reason)

    def log_error(self, error: BaseException, says: str, reason: CloseReason | None) -> None:
        write = partial(log.error, says, self.route, exc_info=error, extra=self.fields(reason))
        if self._iteration is not None:
            self._iteration.report(write)
        else:
            write()

    def settle(self) -> None:
        """Say how it ended: when the server has come back for more, or has given up."""
        if self._told or self.reason is None:
            return
        self._told = True
        if self._ticker is not None:
            self._ticker.members.discard(self)
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        self._tell(self.reason, self._first, self._backlog)


def _nothing() -> None:
    return
