"""A parked subscriber: a socket, and no greenlet.

Once a subscription has caught up, all that its response still needs is that events are written to
its socket. The fan-out does that from its own greenlet, without waiting: what the socket does not
take goes on from the loop (see unsent.py), and later events wait in a backlog meanwhile. Heartbeat,
deadline, departure and drain are those of every stream; see lifecycle.py.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import spawn
from gevent.monkey import get_original

from ..exceptions import ClientStalled
from ..logs import logger
from ..streaming.connection import RESET
from ..streaming.disconnect import DisconnectWatcher
from ..streaming.lifecycle import Lifecycle
from ..streaming.options import StreamOptions
from ..streaming.record import CloseReason, Snapshot
from ..streaming.ticker import process_ticker
from ..streaming.unsent import Unsent
from .backends.event_log import Position
from .fanout import Batch, Fanout, waits
from .frames import Backlog, Frame, chunk

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .subscription import Subscription

__all__ = ["ParkedSubscriber"]

log = logger(__name__)

LAST_CHUNK = b"0\r\n\r\n"

PIECE = 64 * 1024
"""Bytes of a backlog sent at a time."""


class ParkedSubscriber(Lifecycle):
    """A socket that is told of events, framed as chunks of HTTP/1.1 (RFC 9112, section 7.1).

    ended: called at the end, with the bytes that were sent.
    """

    __slots__ = (
        *("_backlog", "_batch", "_ended", "_fanout", "_last", "_limit", "_log", "_position"),
        *("_slow", "_sock", "_unsent", "_watcher", "topics"),
    )

    def __init__(
        self,
        subscription: Subscription,
        environ: WSGIEnvironment,
        drain: Any,
        options: StreamOptions,
        ended: Callable[[int], object] | None,
    ) -> None:
        beat = options.beat(event_stream=True)
        super().__init__(environ, drain, options, beat, event_stream=True)
        self.topics = subscription.topics
        self._limit, self._slow = subscription.backlog, subscription.slow
        self._log = subscription.log
        self._fanout: Fanout | None = None
        self._batch: Batch | None = None  # while it is live
        self._ended = ended
        self._sock: Any = None
        self._position: Position = subscription.position  # of the newest frame that it was told
        self._backlog: Backlog | None = self._new_backlog()  # None while it keeps up
        self._unsent: Unsent | None = None
        self._last: tuple[CloseReason, bytes] | None = None  # to be sent after all else
        self._watcher: DisconnectWatcher | None = None
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
        if self.reason is not None:  # its backlog was full before it got here
            self._close()
            return
        if reason is not None:
            self._abort(reason)
            return
        self._sock.setblocking(False)
        self._position = max(self._position, position)
        self._moved = monotonic()
        if self._backlog is not None:
            self._backlog.skip(position)
        ticker = process_ticker(cooperative=True)
        self._watcher = DisconnectWatcher(self._sock, ticker, self.left, self.half_closed)
        ticker.add_idle(self)
        self._go_on()

    # the fan-out's side

    @property
    def holds(self) -> Position | None:
        return self._told if self._backlog is None else None

    @property
    def _told(self) -> Position:
        """The position of the newest frame that it was told."""
        return self._position if self._batch is None else max(self._position, self._batch.position)

    def put(self, frame: Frame) -> None:
        """Called by the fan-out, unless it is live."""
        if frame.position <= self._told:
            return  # it was read from the log
        self._position = frame.position
        if self._backlog is None:
            self._moved = frame.made
            self._send(frame.chunk, len(frame.block))
            if self._backlog is None and self._batch is None and self._fanout is not None:
                self._become_live(self._fanout.keeps_up(self, self._sock.send))
        elif self._last is None and self.reason is None and not self._backlog.add(frame):
            self._abort(CloseReason.STALLED)

    def _become_live(self, batch: Batch | None) -> None:
        if batch is not None:
            self._batch = batch
            self.sent -= batch.sent
            self.pieces -= batch.pieces

    def _be_live_no_more(self) -> None:
        batch = self._batch
        if batch is not None:
            self._position = self._told
            self._moved = max(self._moved, batch.moved)
            self._batch = None
            self.sent += batch.sent
            self.pieces += batch.pieces
            if self in batch.sends:
                batch.sends[self] = waits

    def fell_behind(self, frame: Frame, sent: int) -> None:
        """Called by the fan-out when it was live, and did not take all of a frame."""
        if self._batch is not None:
            self._be_live_no_more()
            self._send_later(memoryview(frame.chunk)[sent:])

    def dismiss(self) -> None:
        """Called by the fan-out when nothing more will come of it."""
        self._end_with(CloseReason.EXHAUSTED, LAST_CHUNK)

    # Lifecycle

    def tick(self, now: float) -> None:
        if self._batch is not None:
            self._moved = max(self._moved, self._batch.moved)
        super().tick(now)

    @property
    def _is_silent(self) -> bool:
        return self._backlog is None

    def _say(self, block: bytes) -> None:
        if self._backlog is None:
            self._moved = monotonic()
            self._send(chunk(block), len(block))

    def _finish(self, reason: CloseReason, block: bytes) -> None:
        if self._last is None and self.reason is None:
            self.sent += len(block)
            end = LAST_CHUNK if self.ends_whole else b""
            self._end_with(reason, chunk(block) + end if block else end)

    def _abort(self, reason: CloseReason) -> None:
        if self.reason is not None:
            return
        self._be_live_no_more()
        self.reason = reason
        if self._fanout is not None:
            self._fanout.leave(self)
        if self._watcher is not None:
            process_ticker(cooperative=True).idle.discard(self)
            self._watcher.close()
            self._watcher = None
        unsent = self._backlog.size if self._backlog else 0
        if self._unsent is not None:
            unsent += len(self._unsent)
            self._unsent.close()
            self._unsent = None
        self._backlog = self._new_backlog()
        self._close()
        if self._ended is None and self._on_end is None:
            self._tell(reason, None, unsent)
        else:  # they may wait, and neither the loop nor the fan-out can
            spawn(self._close_response, reason, unsent)

    def cut(self) -> None:
        self._abort(CloseReason.DRAINING)

    @property
    def snapshot(self) -> Snapshot:
        behind = self._backlog is not None
        state = "ending" if self._last is not None else "behind" if behind else "parked"
        waiting = 0 if self._unsent is None else len(self._unsent)
        sent, pieces, moved = self.sent, self.pieces, self._moved
        if self._batch is not None:
            sent, pieces = sent + self._batch.sent, pieces + self._batch.pieces
            moved = max(moved, self._batch.moved)
        sizes = sent, pieces, waiting, len(self._backlog or ())
        return Snapshot(self.route, self.start, moved, *sizes, state, self._sock, "")

    # the socket

    def _send(self, data: bytes, size: int) -> None:
        """Send framed data of `size` bytes of the body; what is not taken goes on by itself."""
        self.sent += size
        self.pieces += 1
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._abort(CloseReason.DISCONNECTED)
            return
        if sent < len(data):
            self._be_live_no_more()
            self._send_later(memoryview(data)[sent:])

    def _send_later(self, rest: memoryview) -> None:
        if self._backlog is None:
            self._backlog = self._new_backlog()
        self._unsent = Unsent(
            self._sock,
            self._sock.send,
            (rest,),
            self.options.send_timeout,
            self._sent_all,
            self._failed,
        )

    def _sent_all(self) -> None:
        self._unsent = None
        self._moved = monotonic()
        self._go_on()

    def _failed(self, error: OSError) -> None:
        self._unsent = None
        stalled = isinstance(error, ClientStalled)
        self._abort(CloseReason.STALLED if stalled else CloseReason.DISCONNECTED)

    def _go_on(self) -> None:
        """Send the backlog, as far as the socket takes it, and then what comes last."""
        while self._backlog and self._unsent is None:
            chunks: list[bytes] = []
            size = length = 0
            while self._backlog and length < PIECE:
                frame = self._backlog.take()
                chunks.append(frame.chunk)
                length += len(frame.chunk)
                size += len(frame.block)
            self.pieces += len(chunks) - 1
            self._send(b"".join(chunks), size)
        if self._unsent is not None or self.reason is not None:
            return
        if self._last is None:
            self._backlog = None
            return
        reason, data = self._last
        self._last = reason, b""
        if data:
            self.pieces -= 1
            self._send(data, 0)
        if self._unsent is None and self.reason is None:
            self._abort(reason)

    def _end_with(self, reason: CloseReason, data: bytes) -> None:
        """End when `data` has been sent after all else."""
        if self._last is not None or self.reason is not None:
            return
        self._be_live_no_more()
        self._last = reason, data
        if self._fanout is not None:
            self._fanout.leave(self)
        if self._backlog is None:
            self._backlog = self._new_backlog()
        if self._unsent is None and self._watcher is not None:  # it has its socket
            self._go_on()

    def _close(self) -> None:
        if self._sock is None:
            return
        if self.reason is CloseReason.STALLED:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif self._last is not None:
            # with unread bytes the kernel would reset it, and the end might not arrive
            with suppress(OSError):
                self._sock.recv(PIECE)
        self._sock.close()

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

    def _new_backlog(self) -> Backlog:
        return Backlog(self._log, self._limit, self._slow)
