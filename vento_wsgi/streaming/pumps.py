"""Pumps: how a source runs beside the server that iterates: inline, in a greenlet, in a thread.

A pump stands between the chunks of a body and the server's iteration. ``take()`` returns all
chunks that are ready, joined, and waits when there are none. ``wake()`` makes such a wait return
b"". ``stop()`` interrupts the source where it waits.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from ..logs import logger

__all__ = ["MAX_BUFFER", "InlinePump", "Pump", "ThreadPump", "cooperative", "interruptible"]

log = logger(__name__)

MAX_BUFFER = 64 * 1024
"""Bytes that a source may be ahead of the writer. A larger send is no cheaper, and every stream may
hold as many.
"""

_patched = False  # once true, it stays true


def cooperative() -> bool:
    """Whether this code runs in a greenlet of a patched gevent, so that waiting switches."""
    global _patched
    if not _patched:
        monkey: Any = sys.modules.get("gevent.monkey")
        _patched = monkey is not None and monkey.is_module_patched("threading")
    return _patched


class Pump(Protocol):
    """What a Stream takes its chunks from.

    tells_idle: whether it can tell that the source waits and nothing is ready.
    """

    tells_idle: ClassVar[bool]

    @property
    def exhausted(self) -> bool:
        """Whether the source has ended without an error and nothing is left to take."""

    @property
    def waiting(self) -> int:
        """Bytes that are ready and not taken yet."""

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:
        """Set how chunks are taken.

        idle: called in the loop when the source waits and nothing is ready, if tells_idle; called
        again at the next wait as long as it returns True. each: take() returns one chunk.
        """

    def take(self) -> bytes:
        """All that is ready, joined; b"" after wake().

        Raises what the source raises, and StopIteration at its end.
        """

    def wake(self) -> None:
        """Make a waiting take() return b"". Called from the loop, or from another thread."""

    def report(self, function: Callable[[], object]) -> None:
        """Call `function` in the context of the source, which has failed. Log records have more
        fields there, and error trackers remember there which errors they have reported.
        """

    def stop(self, close: Callable[[], object]) -> None:
        """Interrupt the source where it waits, and call `close` once when it has stopped."""


class InlinePump:
    """Runs the source in the writer's own call. Nothing can wake or interrupt it."""

    __slots__ = ("exhausted", "take", "waiting")

    tells_idle: ClassVar[bool] = False

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.take = chunks.__next__
        self.exhausted = False
        self.waiting = 0

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:  # noqa: ARG002
        return

    def wake(self) -> None:
        return

    def report(self, function: Callable[[], object]) -> None:
        function()

    def stop(self, close: Callable[[], object]) -> None:
        close()


class ThreadPump:
    """Runs the source in a thread, for servers without gevent.

    A waiting thread cannot be interrupted, except in an ``interruptible()`` wait. Otherwise the
    source is closed when it makes its next chunk.

    wakes: ends the wait that the source is in, if it is interruptible.
    """

    tells_idle: ClassVar[bool] = False
    wakes: Callable[[], object] | None = None

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._each = False
        self._changed = threading.Condition()
        self._ready: list[bytes] = []
        self._size = 0
        self._woken = self._over = self._stopped = False
        self._error: BaseException | None = None
        self._close: Callable[[], object] | None = None
        self._context = contextvars.copy_context()
        self._thread: threading.Thread | None = None

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:  # noqa: ARG002
        self._each = each

    @property
    def exhausted(self) -> bool:
        return self._over and not self._ready and self._error is None

    @property
    def waiting(self) -> int:
        return self._size

    def take(self) -> bytes:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vento_wsgi source", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._over or self._woken)
            self._woken = False
            count = 1 if self._each else len(self._ready)
            taken = b"".join(self._ready[:count])
            del self._ready[:count]
            self._size -= len(taken)
            self._changed.notify_all()
            if not taken and self._over:
                error, self._error = self._error, None
                try:
                    raise error or StopIteration
                finally:
                    del error  # its traceback has this frame: a cycle
        return taken

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def report(self, function: Callable[[], object]) -> None:
        self._context.run(function)

    def stop(self, close: Callable[[], object]) -> None:
        with self._changed:
            self._stopped = True
            if self._thread is not None and not self._over:
                self._close = close  # the thread calls it when it leaves the source
                self._changed.notify_all()
                wakes = self.wakes
                if wakes is not None:
                    wakes()
                return
        if self._thread is None:
            close()
        else:
            self._context.run(close)

    def _run(self) -> None:
        _source_of.pump = self
        error = None
        try:
            self._context.run(self._fill)
        except BaseException as caught:  # the writer raises it
            error = caught
        # Only one thread at a time can run in a context. So this thread leaves it before it sets
        # _over: from then on stop() may enter it, in the writer's thread.
        with self._changed:
            self._over, self._error = True, error
            close = self._close
            self._changed.notify_all()
        if close is not None:
            try:
                self._context.run(close)
            except Exception:
                log.exception("closing a source failed")

    def _fill(self) -> None:
        for chunk in self._chunks:
            with self._changed:
                self._changed.wait_for(lambda: self._size < MAX_BUFFER or self._stopped)
                if self._stopped:
                    break
                self._ready.append(chunk)
                self._size += len(chunk)
                self._changed.notify_all()


_source_of = threading.local()
"""`pump`: the ThreadPump whose source this thread runs."""


@contextmanager
def interruptible(wake: Callable[[], object]) -> Iterator[None]:
    """Around a wait of a source: a stream that stops ends the wait, and GeneratorExit is raised.

    wake: makes the wait return. Called from another thread, perhaps before the wait has begun.
    """
    pump: ThreadPump | None = getattr(_source_of, "pump", None)
    if pump is None:
        yield
        return
    pump.wakes = wake
    try:
        if not pump._stopped:  # checked after `wakes` is set, so that a stop() is never missed
            yield
    finally:
        pump.wakes = None
    if pump._stopped:
        raise GeneratorExit
