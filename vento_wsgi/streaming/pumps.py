"""How a source runs beside its writer: in place, in a greenlet, in a thread.

A pump stands between the chunks of a body and the server's iteration. ``take()`` gives all
that is ready, as one chunk, and waits when nothing is; ``wake()`` ends such a wait with b"";
``stop()`` interrupts the source where it waits.
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
"""Bytes made ahead of the writer: a send of more costs no less, and each stream may hold them."""

_patched = False  # and once it is, for good


def cooperative() -> bool:
    """Whether this code runs in a greenlet of a patched gevent, so that waiting switches."""
    global _patched
    if not _patched:
        monkey: Any = sys.modules.get("gevent.monkey")
        _patched = monkey is not None and monkey.is_module_patched("threading")
    return _patched


class Pump(Protocol):
    """What a Stream takes its chunks from.

    tells_idle: whether it says when the source waits and nothing is ready.
    """

    tells_idle: ClassVar[bool]

    @property
    def exhausted(self) -> bool:
        """Whether the source is known to have ended well, with nothing left to take."""

    @property
    def waiting(self) -> int:
        """Bytes that are ready and were not taken."""

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:
        """Work for a Stream. idle: called in the loop when the source waits and nothing is ready,
        if this pump tells, and again as long as it returns True. each: one chunk a take.
        """

    def take(self) -> bytes:
        """All that is ready, joined; b"" when woken. StopIteration at the end of the source."""

    def wake(self) -> None:
        """Have a take() that waits return b""; from the loop, or from another thread."""

    def report(self, function: Callable[[], object]) -> None:
        """Call it in the context of the source, which has failed: a log record has more there,
        and error trackers keep there what they have reported already.
        """

    def stop(self, close: Callable[[], object]) -> None:
        """Interrupt the source where it waits, and call `close` when it has stopped; once."""


class InlinePump:
    """The source runs in the writer's own call; nothing can wake or interrupt it."""

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
    """The source runs in a thread: what servers without gevent can have.

    A thread that waits cannot be interrupted, except in an ``interruptible()`` wait: the source
    is closed when it makes its next chunk.

    wakes: ends the wait in which the source is, if that can be ended.
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
                self._close = close  # the thread calls it when it comes out of the source
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
        # A context can be entered once at a time. So the thread leaves it before it says that
        # the source is over: from then on stop() may enter it, in the writer's thread.
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
"""The ThreadPump whose source the thread runs, as `pump`."""


@contextmanager
def interruptible(wake: Callable[[], object]) -> Iterator[None]:
    """A wait that a stream which stops can end, as gevent does: GeneratorExit is raised there.

    wake: has the wait return; called from another thread, and perhaps before it has begun.
    """
    pump: ThreadPump | None = getattr(_source_of, "pump", None)
    if pump is None:
        yield
        return
    pump.wakes = wake
    try:
        if not pump._stopped:  # asked after `wakes` was set: stop() sees one, or this the other
            yield
    finally:
        pump.wakes = None
    if pump._stopped:
        raise GeneratorExit
