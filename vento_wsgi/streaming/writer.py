"""The writer of a response: chunks are pushed into it, and leave in as few sends as they allow.

One greenlet, that of the request, runs the source and fills a buffer. There are two ways out:

- The loop has had a turn since the last chunk: the source comes out of a wait, and nothing else
  is ready. The chunk is sent at once, by the greenlet that made it.
- It has had none: the chunk was ready, and more may be. A callback is left with the loop. It runs
  when the source pauses, and only then, and sends all that was made until that moment.

For ready chunks C does the loop: `list.extend` over slices of the source. What it has appended is
visible to the callback if the source pauses in the middle of a slice. The callback then empties
the *gate*, an iterator that the slice asks before each chunk, and so ends the slice behind the
chunk that the source waits for, which is sent at once.

A source that does not pause is cut by size and by time, and the loop gets its turn. A slice has
SLICE chunks at most, and one where chunks are large, so that a source is never much ahead. Where
each chunk takes long to compute there are no slices: it is sent before the next one is made.

Nothing here waits for the client but `wait_for_room`: what the socket does not take goes on from
the loop (see unsent.py), and the source is held until the socket has taken it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import concat
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub
from greenlet import getcurrent

from ..logs import logger
from .turns import MAX_SLICE, turns
from .unsent import Unsent

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_BUFFER", "PIECE", "Outlet", "Writer"]

log = logger(__name__)

MAX_BUFFER = 64 * 1024
"""Bytes gathered before they are sent: a send of more costs no less."""

PIECE = 256 * 1024
"""Bytes framed at a time. Where a stream is cut off in a large chunk, it is cut behind a piece."""

SLICE = 32
"""Chunks that C takes from a source between two looks at their size and at the time."""

FEW, SMALL = 3, 4096
"""So many chunks at the start are taken without slices, if they have fewer bytes than this each:
most streams have no more.
"""

QUICK = 0.001
"""Seconds. Where a chunk or a slice takes longer to make, chunks are sent one by one."""


class Outlet(Protocol):
    """What a stream does with its bytes on their way through a writer."""

    def outgoing(self, data: bytes) -> bytes:
        """What is sent for `data` of the source."""

    def last(self, block: bytes) -> bytes:
        """What is sent after all else: `block`, and what ends the stream."""

    def paused(self) -> None:
        """Called in the loop when the source pauses for the first time."""

    def failed(self, error: OSError) -> None:
        """Called in the loop, or by the source's greenlet, when nothing more can be sent."""


class Writer:
    """The writer of one response. The server's part is `transmit`.

    sock: the client's. send_timeout: seconds that the client may take nothing; None for no limit.
    failure: why nothing more can be sent, once that is so.
    """

    sock: Any
    send_timeout: float | None = None
    failure: OSError | None = None

    _outlet: Outlet | None = None
    _greenlet: Any = None  # that runs the source, as long as it can be interrupted
    _ready: Any = ()  # chunks that were not sent: a list, once something is pushed
    _rest: memoryview | None = None  # of a large chunk, what was not framed
    _gate: list[bytes]
    _armed = False  # flush_at_pause is due
    _paused = _is_finished = False
    _unsent: Unsent | None = None
    _waiter: Any = None  # the greenlet that waits for room
    _hub: Any
    _loop: Any
    _turn: int  # the loop's iteration in which the last chunk came
    _since: float  # when the loop is known to have had its turn

    # what the server does

    def check_started(self) -> None:
        """Called with the first chunk. Raises if there is no head yet."""

    def transmit(self, data: bytes | memoryview, *, last: bool = False) -> None:
        """Frame `data` and send() it. last: nothing will follow."""
        raise NotImplementedError

    def send(self, sender: Callable[[Any], int], parts: Sequence[bytes | memoryview]) -> None:
        """Send framed bytes by `sender`; what the socket does not take goes on by itself."""
        if self._unsent is not None:
            for part in parts:
                self._unsent.add(part)
            return
        rest: list[memoryview] = []
        for part in parts:
            if not rest:
                try:
                    sent = sender(part)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    self._fail(error)
                    return
                if sent == len(part):
                    continue
                part = memoryview(part)[sent:]
            rest.append(memoryview(part))
        if rest:
            self._unsent = Unsent(
                self.sock, sender, rest, self.send_timeout, self._sent_all, self._fail
            )

    @property
    def is_full(self) -> bool:
        """Whether the client has to take something before more can be sent."""
        return self._unsent is not None

    @property
    def is_pushing(self) -> bool:
        """Whether the source runs, or waits."""
        return self._greenlet is not None

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        rest = 0 if self._rest is None else len(self._rest)
        return sum(map(len, self._ready)) + rest + len(self._unsent or ())

    # in the greenlet of the request

    def push(self, chunks: Iterable[bytes], outlet: Outlet | None = None, *, each: bool) -> None:
        """Send all chunks but those that are still in the buffer at the end.

        each: one send for each chunk. Raises what the source raises, and `failure`.
        """
        self._outlet = outlet
        self._greenlet = getcurrent()
        self._ready, self._gate = [], []
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._turn, self._since = _iteration(self._loop), perf_counter()
        if outlet is not None:
            self._arm()
        try:
            self._push(iter(chunks), each=each)
        finally:
            self._greenlet = None

    def _push(self, source: Iterator[Any], *, each: bool) -> None:
        count, few, at_once, made = 1, FEW, each, perf_counter()
        checked = False
        for chunk in source:
            if not checked:
                self.check_started()
                checked = True
            if not isinstance(chunk, bytes):
                raise TypeError(f"{chunk!r} is not a byte")  # as gunicorn says it
            self._ready.append(chunk)
            iteration = _iteration(self._loop)
            if iteration != self._turn:
                self._turn, self._since = iteration, perf_counter()
                made = self._since
                self._flush()
            elif at_once or perf_counter() - made > QUICK:
                self._flush()
                now = perf_counter()
                at_once, made = each or now - made > QUICK, now
                self._give_turn(now)
            elif few and len(chunk) < SMALL:
                few -= 1
                self._arm()
                made = perf_counter()
            else:
                self._arm()
                count = self._take_ready(source, count)
                at_once, made = not count, perf_counter()
                count = max(0, count)
            if self._unsent is not None or self.failure is not None:
                self.wait_for_room()

    def _take_ready(self, source: Iterator[Any], count: int) -> int:
        """Take up to `count` chunks that are ready; how many to take the next time.

        0 where the source computes: its chunks are not held back for what comes after them.
        -1 where one more chunk fills the buffer.
        """
        gate = self._gate = [b""] * count
        began = perf_counter()
        self._ready.extend(map(concat, iter(gate), source))
        now = perf_counter()
        if count and not gate:  # the source has paused, and its last chunk came out of the wait
            self._turn, self._since = _iteration(self._loop), now
            self._flush()
            return count
        size = sum(map(len, self._ready))
        if size >= MAX_BUFFER:
            self._flush()
        self._give_turn(now)
        if now - began > QUICK:
            self._flush()
            return 0
        if not self._ready:
            return 1
        # the next chunks are likely to be as large: one, and then a slice that fills the buffer
        room = -(-(MAX_BUFFER - size) // (len(self._ready[-1]) or 1)) - 1
        return min(max(1, 2 * count), SLICE, room) or -1

    def _give_turn(self, now: float) -> None:
        """Let others run if the source has not paused for too long."""
        if now - self._since > MAX_SLICE:
            self._flush()
            turns().wait()
            self._turn, self._since = _iteration(self._loop), perf_counter()

    def finish(self, data: bytes = b"") -> None:
        """Send what is left, then `data`, and the end of the body; wait until all was taken."""
        if self._unsent is not None or self._rest is not None:
            self.flush()
        left = b""
        if self._ready:
            left = b"".join(self._ready)
            self._ready.clear()
        if self._outlet is not None:
            left = self._outlet.outgoing(left)
            data = self._outlet.last(data)
        data = left + data
        if self._outlet is not None and len(data) > PIECE:
            self._rest = memoryview(data)
            self.flush()
            data = b""
        self._is_finished = True
        if self._armed:
            _pauses(self._hub).discard(self)
        self.transmit(data, last=True)
        if self._unsent is not None or self.failure is not None:
            self.wait_for_room()
        self._outlet = None

    def send_ready(self) -> None:
        """Send what is in the buffer, as far as the socket takes it."""
        if self._ready:
            self._flush()

    def flush(self) -> None:
        """Send what is in the buffer, and wait until all was taken. Raises `failure`."""
        self._flush()
        self.wait_for_room()

    def abandon(self, error: OSError) -> None:
        """Send nothing more, also not what is in the buffer."""
        self.failure = self.failure or error
        self._is_finished = True
        self._outlet = None
        self._ready, self._rest = (), None

    def wait_for_room(self) -> None:
        """Wait until the socket has taken all. Raises `failure`."""
        waits = self.is_full
        while self.is_full:
            self._waiter = getcurrent()
            try:
                get_hub().switch()
            finally:
                self._waiter = None
        if waits:
            turns().pause()
            self._turn, self._since = _iteration(get_hub().loop), perf_counter()
        if self.failure is not None:
            raise self.failure

    # in the loop, or in the greenlet of the request

    def say(self, data: bytes) -> None:
        """Send something between two chunks of the source: after send_ready(), if not is_full."""
        if self.failure is None:
            self.transmit(data)

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise `error` in the source where it waits; no effect from the source itself."""
        if self._greenlet is None or self._greenlet is getcurrent():
            return
        hub = get_hub()
        if getcurrent() is not hub:
            # the source may have ended when the loop runs: it is asked again then
            hub.loop.run_callback(self.interrupt, error)
            return
        greenlet, self._greenlet = self._greenlet, None
        greenlet.throw(error)

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            _pauses(self._hub).add(self)

    def flush_at_pause(self) -> None:
        """Called in the loop when the source has paused."""
        self._armed = False
        if self._is_finished:
            return
        self._gate.clear()
        self._since = perf_counter()
        self._flush()
        if self._outlet is not None and not self._paused:
            self._paused = True
            self._outlet.paused()

    def _flush(self) -> None:
        if self._unsent is not None or self.failure is not None:
            return
        if self._rest is None:
            ready = self._ready
            data: bytes | memoryview = ready[0] if len(ready) == 1 else b"".join(ready)
            if ready:
                ready.clear()
            if self._outlet is not None:
                data = self._outlet.outgoing(data)  # type: ignore[arg-type]
        else:
            data, self._rest = self._rest, None
        while len(data) > PIECE and not self.is_full and self.failure is None:
            data = memoryview(data)
            self.transmit(data[:PIECE])
            data = data[PIECE:]
        if not self.is_full:
            self.transmit(data)
        elif len(data) > 0:
            self._rest = memoryview(data)

    def _sent_all(self) -> None:
        self._unsent = None
        while (self._ready or self._rest is not None) and not self.is_full:
            if self.failure is not None:
                break
            self._flush()
        if self._unsent is None and self._waiter is not None:
            self._waiter.switch()

    def _fail(self, error: OSError) -> None:
        self._unsent = None
        self.failure = error
        if self._outlet is not None:
            self._outlet.failed(error)
        if self._waiter is not None:
            self._waiter.switch()


class _Pauses:
    """The writers that send what they have when the loop runs: one callback for all of them.

    A greenlet whose client is quick answers many requests before it waits. Their writers have
    finished by then, and should not be kept for a callback of their own.
    """

    def __init__(self, hub: Any) -> None:
        self._loop = hub.loop
        self._writers: list[Writer] = []
        self._is_due = False

    def add(self, writer: Writer) -> None:
        self._writers.append(writer)
        if not self._is_due:
            self._is_due = True
            self._loop.run_callback(self._run)

    def discard(self, writer: Writer) -> None:
        """Called by a writer that has finished. It is the last one, unless others ran since."""
        if self._writers and self._writers[-1] is writer:
            self._writers.pop()

    def _run(self) -> None:
        self._is_due = False
        writers, self._writers = self._writers, []
        for writer in writers:
            try:
                writer.flush_at_pause()
            except Exception:  # noqa: PERF203 - the others send all the same
                log.exception("sending at a pause failed")


def _pauses(hub: Any) -> _Pauses:
    """Those of a hub."""
    try:
        return hub.vento_pauses  # type: ignore[no-any-return]
    except AttributeError:
        pauses = hub.vento_pauses = _Pauses(hub)
        return pauses


def _iteration(loop: Any) -> int:
    """How many turns the loop has had; 0 where it does not say: then all chunks gather."""
    return getattr(loop, "iteration", 0)
