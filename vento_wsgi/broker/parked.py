"""ParkedSubscriber: a subscriber that is a socket, and no greenlet.

Once a subscription has caught up, all that its response still needs is that events are
written to its socket. The slot does that from the fan-out's own greenlet, without waiting:
what the socket does not take stays in a backlog until it is writable again. The clock asks
after heartbeat, deadline and stalled clients, as it does for a Stream, and the endings are
those of a Stream, told in the same way.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub, spawn
from gevent.monkey import get_original

from ..logs import logger
from ..sse import COMMENT, Event
from ..streaming.connection import RESET, Progress
from ..streaming.disconnect import DisconnectWatcher
from ..streaming.options import DrainKind, StreamOptions
from ..streaming.record import CloseReason, Snapshot, StreamRecord
from ..streaming.stream import STUCK
from ..streaming.ticker import process_ticker
from .backends.event_log import Position
from .fanout import Fanout
from .frames import Backlog, Frame, chunk

if TYPE_CHECKING:
    from .subscription import Subscription

__all__ = ["ParkedSubscriber"]

log = logger(__name__)

LAST_CHUNK = b"0\r\n\r\n"

PIECE = 64 * 1024
"""Bytes of a backlog sent at a time."""

WRITABLE = 2
"""The event of gevent's loop."""


class ParkedSubscriber(StreamRecord):
    """A socket that is told of events, framed as chunks of HTTP/1.1 (RFC 9112, section 7.1).

    policies, route, request_id: as those of a Stream. ended: called at the end, with the bytes
        that were sent.
    drains: what happens to it when the worker stops.
    """

    __slots__ = (
        *("_backlog", "_drains", "_ended", "_fanout", "_from", "_last", "_limit", "_log"),
        *("_policies", "_progress", "_rest", "_slow", "_sock", "_watch", "_writable", "topics"),
    )

    def __init__(
        self,
        subscription: Subscription,
        policies: StreamOptions,
        route: str,
        request_id: str | None,
        ended: Callable[[int], object] | None,
        drain: Any,
        drains: DrainKind,
    ) -> None:
        super().__init__(route, drain, policies.on_end, request_id)
        self.topics = subscription.topics
        self._limit, self._slow = subscription.backlog, subscription.slow
        self._log = subscription.log
        self._fanout: Fanout | None = None
        self._policies = policies
        self._drains = drains
        self._ended = ended
        self._sock: Any = None
        self._from: Position = subscription.position
        self._backlog: Backlog | None = self._new_backlog()
        self._rest = b""  # of what was sent in part
        self._last: tuple[CloseReason, bytes] | None = None  # to be sent after all else
        self._watch: DisconnectWatcher | None = None
        self._writable: Any = None
        self._progress: Progress | None = None  # while it waits for the client
        self._enter()

    def join(self, fanout: Fanout) -> Position:
        """Be told what is published; returns the position after which it will be."""
        self._fanout = fanout
        return fanout.join(self)

    def open(self, fd: int, position: Position, reason: CloseReason | None = None) -> None:
        """Own the socket `fd`, and write to it what is later than `position`.

        reason: why it has ended already, if it has.
        """
        self._sock = get_original("socket", "socket")(fileno=fd)
        if self.reason is not None:  # it was too slow to get here
            self._close()
            return
        if reason is not None:
            self.end(reason)
            return
        self._sock.setblocking(False)
        self._from = max(self._from, position)
        self._moved = monotonic()
        if self._backlog is not None:
            self._backlog.skip(position)
        ticker = process_ticker(cooperative=True)
        self._watch = DisconnectWatcher(self._sock, ticker, self._gone, self._half_closed)
        ticker.add_idle(self)
        self._flush()

    @property
    def holds(self) -> Position | None:
        return self._from if self._backlog is None else None

    def put(self, frame: Frame) -> None:
        """Called by the fan-out."""
        if frame.position <= self._from:
            return  # it was read from the log
        self._from = frame.position
        if self._backlog is not None:
            self._queue(frame)
            return
        try:
            written = self._sock.send(frame.chunk)
        except OSError as error:
            written = self._failed(error)
        self._wrote(frame.chunk, written, len(frame.block))
        self._moved = frame.made

    def dismiss(self) -> None:
        """Called by the fan-out when nothing more will come of it."""
        self._finish(CloseReason.EXHAUSTED, b"", LAST_CHUNK)

    def drain(self, retry: int) -> None:
        if self._drains != "finish":
            self._finish(CloseReason.DRAINING, Event(retry=retry).encode(), self._end_chunk)

    def cut(self) -> None:
        self.end(CloseReason.DRAINING)

    @property
    def _end_chunk(self) -> bytes:
        """The final chunk, unless the response must not look whole."""
        return LAST_CHUNK if self._drains == "end" else b""

    def end(self, reason: CloseReason) -> None:
        """Close the socket; further calls do nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._fanout is not None:
            self._fanout.leave(self)
        if self._watch is not None:
            process_ticker(cooperative=True).idle.discard(self)
            self._watch.close()
            self._watch = None
        self._stop_waiting()
        unsent = len(self._rest) + (self._backlog.size if self._backlog else 0)
        self._backlog, self._rest = self._new_backlog(), b""
        self._close()
        if self._ended is None and self._on_end is None:
            self._tell(reason, None, unsent)
        else:  # which may wait, and neither the loop nor the fan-out can
            spawn(self._close_response, reason, unsent)

    def _close_response(self, reason: CloseReason, unsent: int) -> None:
        ended, self._ended = self._ended, None
        try:
            if ended is not None:
                ended(self.sent)
        except Exception:
            fields = self.fields(self.reason)
            log.exception("%s: closing its response failed", self.route, extra=fields)
        finally:
            self._tell(reason, None, unsent)

    @property
    def snapshot(self) -> Snapshot:
        behind = self._backlog is not None
        state = "ending" if self._last is not None else "behind" if behind else "parked"
        sizes = self.sent, self.pieces, len(self._rest), len(self._backlog or ())
        return Snapshot(self.route, self.start, self._moved, *sizes, state, self._sock, "")

    # what the clock and the kernel say

    def tick(self, now: float) -> None:
        policies, still = self._policies, now - self._moved
        if policies.deadline and now - self.start >= policies.deadline:
            self._finish(CloseReason.DEADLINE, b"", self._end_chunk)
            still = now - self._moved
            if now - self.start >= policies.deadline + STUCK:
                self.end(CloseReason.DEADLINE)
        if self._backlog is not None:
            if self._progress is not None and self._progress.still() >= (
                policies.send_timeout or math.inf
            ):
                self.end(CloseReason.STALLED)
        elif (beat := policies.beat(event_stream=True)) and still >= beat[1]:
            self._moved = now
            self._say(beat[0])

    def _gone(self) -> None:
        self.end(CloseReason.DISCONNECTED)

    def _half_closed(self) -> None:
        if self._backlog is None:
            self._say(COMMENT)

    # the socket

    def _say(self, block: bytes) -> None:
        data = chunk(block)
        try:
            written = self._sock.send(data)
        except OSError as error:
            written = self._failed(error)
        self._wrote(data, written, len(block))
        self._moved = monotonic()

    def _wrote(self, data: bytes, written: int, size: int) -> None:
        self.sent += size
        self.pieces += 1
        if written < len(data) and self.reason is None:
            self._rest = data[written:]
            self._backlog = self._new_backlog()
            self._wait()

    def _failed(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            self.end(CloseReason.DISCONNECTED)
        return 0

    def _queue(self, frame: Frame) -> None:
        assert self._backlog is not None
        if self._last is None and self.reason is None and not self._backlog.add(frame):
            self.end(CloseReason.STALLED)

    def _finish(self, reason: CloseReason, block: bytes, end: bytes) -> None:
        """End once everything before it has been sent. end: the final chunk, if there is one."""
        if self._last is None and self.reason is None:
            self._last = reason, chunk(block) + end if block else end
            self.sent += len(block)
            if self._fanout is not None:
                self._fanout.leave(self)
            if self._backlog is None:
                self._backlog = self._new_backlog()
            if self._writable is None and self._watch is not None:  # it has its socket
                self._flush()

    def _flush(self) -> None:
        while True:
            data = self._rest or self._taken()
            if not data:
                break
            try:
                written = self._sock.send(data)
            except OSError as error:
                written = self._failed(error)
                if self.reason is not None:
                    return
            self._rest = data[written:]
            if written:
                self._moved = monotonic()
                if self._progress is not None:
                    self._progress.go_on()
            if self._rest:
                self._wait()
                return
        self._stop_waiting()
        self._backlog = None
        if self._last is not None:
            self.end(self._last[0])

    def _taken(self) -> bytes:
        """What is to be written next."""
        chunks: list[bytes] = []
        size = 0
        while self._backlog and size < PIECE:
            frame = self._backlog.take()
            chunks.append(frame.chunk)
            size += len(frame.chunk)
            self.sent += len(frame.block)
            self.pieces += 1
        if chunks:
            return b"".join(chunks)
        if self._last is None:
            return b""
        reason, data = self._last
        self._last = reason, b""
        return data

    def _wait(self) -> None:
        if self._writable is None:
            self._moved = monotonic()
            self._progress = Progress(self._sock)
            self._writable = get_hub().loop.io(self._sock.fileno(), WRITABLE, ref=False)
            self._writable.start(self._flush)

    def _stop_waiting(self) -> None:
        if self._writable is not None:
            self._writable.stop()
            self._writable.close()
            self._writable = self._progress = None

    def _close(self) -> None:
        if self._sock is not None:
            if self.reason is CloseReason.STALLED:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            elif self._last is not None:
                # with unread bytes the kernel would reset it, and the end might not arrive
                with suppress(OSError):
                    self._sock.recv(PIECE)
            self._sock.close()

    def _new_backlog(self) -> Backlog:
        return Backlog(self._log, self._limit, self._slow)
