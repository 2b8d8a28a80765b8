"""The chunks of a stream for a server, or for middleware, that iterates.

Data goes one way: source, pump, here, server. What comes from outside (the ticker, the client's
socket, the worker that stops) leaves a verdict and wakes the writer, which is in `__next__` and
acts on it. The exception is a client that stopped reading: then the writer is in the server's
send, and is thrown out of it.

Where the connection is known, a stream that breaks off sees to that itself, and the iteration
just ends: middleware around it has nothing to report, neither of a client that left nor, a second
time, of a failure. Elsewhere `__next__` raises StreamAborted: PEP 3333 has no other way to tell a
server.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ..exceptions import ClientStalled, StreamAborted
from .connection import Connection
from .endings import FAILED, FAREWELL, STOPS
from .options import StreamOptions
from .pumps import InlinePump, Pump, ThreadPump, cooperative
from .record import CloseReason

__all__ = ["Iterated", "Iteration"]

MAX_PIECE = 256 * 1024
"""Bytes given to the server at a time: between two pieces a verdict is acted on."""

_AT_ONCE = (CloseReason.DEADLINE, CloseReason.DISCONNECTED)
"""Verdicts that do not wait for the end of a large chunk."""


class Iterated(Protocol):
    """What an Iteration needs of its Stream: how it stands, its bytes, and its endings."""

    route: str
    reason: CloseReason | None
    verdict: CloseReason | None
    block: bytes
    options: StreamOptions
    connection: Connection | None

    @property
    def is_event_stream(self) -> bool: ...
    @property
    def is_whole(self) -> bool: ...
    @property
    def between_lines(self) -> bool: ...
    @property
    def between_events(self) -> bool: ...

    def outgoing(self, data: bytes) -> bytes: ...
    def last(self, block: bytes) -> bytes: ...
    def watch(self) -> None: ...
    def reason_of(self, error: BaseException) -> CloseReason: ...
    def log_error(self, error: BaseException, says: str, reason: CloseReason | None) -> None: ...
    def stop(self, reason: CloseReason) -> None: ...
    def settle(self) -> None: ...


class Iteration(Iterator[bytes]):
    """Takes the chunks of `stream` from a pump, and gives them to a server.

    pump: of the chunks, if it runs already. waits: whether the source may wait.
    is_sending: whether the server has a chunk, and has not come back for the next. thrown: whether
    it was thrown out of its send.
    """

    def __init__(
        self, stream: Iterated, chunks: Iterator[bytes], pump: Pump | None, *, waits: bool
    ) -> None:
        options = stream.options
        timed = bool(options.heartbeat or options.deadline)
        self._stream = stream
        self._pump = pump or _pump(chunks, waits=waits, timed=timed)
        self._pump.flow(self._idle, each=options.flush == "each")
        self._rest: memoryview | None = None  # of a large chunk
        self._due: bytes | None = None
        self._begun = self._probing = self._given_all = self._ended = False
        self._broken = False  # the connection was told
        self._is_quiet = False  # so the server knows that the body is not whole
        self.thrown = False  # the writer, out of a send
        self._failed_at: float | None = None  # when the error event was given
        self.is_sending = False

    # the writer's side

    def __next__(self) -> bytes:
        stream = self._stream
        self.is_sending = False
        if self._rest is not None and stream.verdict not in _AT_ONCE:
            return self._give(b"")
        if self._given_all and stream.reason is None:
            stream.stop(CloseReason.EXHAUSTED)
        piece = self._take() if stream.reason is None else None
        if piece is not None:
            return self._give(piece)
        if stream.is_whole and not self._ended:
            self._ended = True
            if end := stream.last(b""):
                return self._hand_over(end)
        raise self._end() from None

    def _give(self, piece: bytes) -> bytes:
        """Give a piece of the source."""
        if self._rest is not None or len(piece) > MAX_PIECE:
            rest = memoryview(piece) if self._rest is None else self._rest
            piece = bytes(rest[:MAX_PIECE])
            self._rest = rest[MAX_PIECE:] if len(rest) > MAX_PIECE else None
        data = self._stream.outgoing(piece)
        if self._rest is None and self._stream.reason is None and self._pump.exhausted:
            self._given_all = True
        return self._hand_over(data)

    def _hand_over(self, data: bytes) -> bytes:
        connection = self._stream.connection
        if connection is not None:
            connection.gave(data)
        self.is_sending = True
        return data

    def _take(self) -> bytes | None:
        """What is sent next; b"" if the source has nothing yet, None if the stream has ended."""
        stream = self._stream
        if not self._begun:
            if stream.connection is not None:
                stream.connection.written_from_here()
            if not self._pump.tells_idle:
                self._begun = True
                return b""
        while True:
            if self._probing and stream.connection is not None:
                self._probing = False
                if stream.connection.can_probe() and not stream.connection.probe():
                    self._decide(CloseReason.DISCONNECTED)
            if stream.verdict is not None:
                self._rest = None
                stream.stop(stream.verdict)
                return stream.block if stream.block and stream.between_lines else None
            if self._due is not None:
                due, self._due = self._due, None
                if stream.between_lines or not stream.is_event_stream:
                    return due
            try:
                piece = self._pump.take()
            except StopIteration:
                stream.stop(CloseReason.EXHAUSTED)
                return None
            except BaseException as error:
                return self._failed(error)
            if piece or not self._begun:
                self._begun = True
                return piece

    def _failed(self, error: BaseException) -> bytes | None:
        """End because of what the source raised; what is sent then."""
        stream = self._stream
        reason = stream.reason_of(error)
        if reason is CloseReason.FAILED and not isinstance(error, StreamAborted):
            stream.log_error(error, "%s failed in mid-stream", reason)
            stream.stop(reason)
            if stream.between_events:
                self._failed_at = time.monotonic()
                return FAILED
            return None
        stream.stop(reason)
        if type(error).__name__ in STOPS:
            stream.settle()
            raise error
        if isinstance(error, StreamAborted):
            end = self._end()
            raise (error if isinstance(end, StreamAborted) else end) from None
        return None

    def _end(self) -> Exception:
        """What ``__next__`` raises of a stream that has ended."""
        stream = self._stream
        if self._failed_at is not None:
            left = self._failed_at + FAREWELL - time.monotonic()
            self._failed_at = None
            if left > 0:
                time.sleep(left)
        assert stream.reason is not None
        if not (self._broken or stream.is_whole or stream.connection is None):
            self._broken = True
            self._is_quiet = stream.connection.break_off(stream.reason)
        stream.settle()
        if stream.is_whole or self._is_quiet or stream.reason is CloseReason.DISCONNECTED:
            return StopIteration()
        return StreamAborted(f"{stream.route}: {stream.reason}")

    @property
    def waiting(self) -> int:
        """Bytes that the source has made and the server has not taken."""
        return self._pump.waiting + (0 if self._rest is None else len(self._rest))

    def report(self, write: Callable[[], object]) -> None:
        """Log in the context of the source; see Pump."""
        self._pump.report(write)

    def stop(self, close: Callable[[], object]) -> None:
        """Interrupt the source where it waits, and have it closed."""
        self._pump.stop(close)

    # from outside: the loop, or the ticker's thread

    def wake(self) -> None:
        """Have the writer look at the verdict."""
        self._pump.wake()

    def say(self, block: bytes) -> None:
        """Give `block` when the writer waits for the source."""
        self._due = block
        self._pump.wake()

    def probe(self) -> None:
        """Have the writer probe the connection, which only it can do between two chunks."""
        if self._stream.connection is not None and self._stream.connection.can_probe():
            self._probing = True
            self._pump.wake()

    def abort(self, reason: CloseReason) -> None:
        """End at once, also where the writer is in a send."""
        if reason is CloseReason.DEADLINE and self.is_sending:
            self._throw(reason)
        else:
            self._decide(reason)

    def tick(self) -> None:
        """Called by the ticker: throw the writer out of a send to a client that has stalled."""
        connection = self._stream.connection
        if not self.is_sending or connection is None or connection.limits_writes:
            return
        if connection.progress.still() >= (self._stream.options.send_timeout or math.inf):
            self._throw(CloseReason.STALLED)

    def _decide(self, verdict: CloseReason) -> None:
        if self._stream.reason is None and self._stream.verdict is None:
            self._stream.verdict = verdict
            self._pump.wake()

    def _throw(self, reason: CloseReason) -> None:
        connection = self._stream.connection
        if connection is not None and connection.writer is not None and not self.thrown:
            self.thrown, self._stream.verdict = True, reason
            connection.reset(ClientStalled())

    def _idle(self) -> bool:
        if not self._begun:
            self._pump.wake()
            return True
        self._stream.watch()
        return False


def _pump(chunks: Iterator[bytes], *, waits: bool, timed: bool) -> Pump:
    """The pump for a source. waits: whether it may wait. timed: whether something may be due."""
    if waits and cooperative():
        from .greenlet_pump import GreenletPump

        return GreenletPump(chunks)
    return ThreadPump(chunks) if waits and timed else InlinePump(chunks)
