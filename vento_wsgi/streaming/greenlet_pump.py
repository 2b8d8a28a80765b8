"""GreenletPump: the pump of gevent's servers that iterate.

The source runs in its own greenlet and fills a buffer. The server's greenlet, the writer, takes
from the buffer; when that is empty it switches directly to the source. A chunk then reaches the
writer in one of two ways:

- The loop has run since the writer began to wait. So the source has just come out of a wait of its
  own, and nothing else is ready. The chunk goes to the writer at once, before any other greenlet
  runs.
- The loop has not run. So the chunk was ready, and more chunks may be. The pump leaves a callback
  with the loop, which runs only when the source waits. The writer then takes all chunks that were
  made until that moment.

A source that never waits is stopped after MAX_BUFFER bytes or MAX_SLICE seconds, and the loop gets
a turn. A source whose buffer is full waits until the writer comes back, so it is never further
ahead than that.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, ClassVar
from weakref import getweakrefcount

from gevent import get_hub
from greenlet import getcurrent, greenlet

from .endings import Interruption
from .pumps import MAX_BUFFER
from .turns import MAX_SLICE, turns

__all__ = ["GreenletPump"]

MAX_SOURCES = 64
"""Idle greenlets that are kept for the next source. Each holds about 20 KB, and few streams end at
a time.
"""


class GreenletPump:
    """Runs the source in a greenlet beside the writer's; see above.

    context: the context that the source runs in; by default a copy of the current one.

    Before flow() is called, each take() returns one chunk.
    """

    tells_idle: ClassVar[bool] = True

    __slots__ = (
        "_chunks",
        "_close",
        "_context",
        "_error",
        "_full",
        "_gathers",
        "_held",
        "_hub",
        "_idle",
        "_most",
        "_over",
        "_ready",
        "_since",
        "_size",
        "_source",
        "_stopped",
        "_tells",
        "_turn",
        "_writer",
    )

    def __init__(self, chunks: Iterator[bytes], context: contextvars.Context | None = None) -> None:
        self._chunks: Any = chunks
        self._most = 0
        self._idle: Any = _nothing
        self._hub: Any = get_hub()
        self._context = contextvars.copy_context() if context is None else context
        self._source: Any = None  # from the first take() on
        self._over = False
        self._writer: greenlet | None = None
        self._ready: list[bytes] = []
        self._size = 0
        self._gathers = False  # the loop will call _source_waits
        self._full = False  # the source was held because the buffer was full
        self._held = True  # the source continues when the writer switches to it
        self._since = 0  # the round of the loop in which the writer began to wait
        self._tells = True  # call _idle when the source waits and nothing is ready
        self._stopped = False
        self._close: Callable[[], object] | None = None  # for the source, when it is stopped
        self._error: BaseException | None = None
        self._turn = perf_counter()  # when the loop is known to have run

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:
        self._idle, self._tells = idle, True  # the source may have waited before there was a Stream
        self._most = 0 if each else MAX_BUFFER

    @property
    def exhausted(self) -> bool:
        return self._over and not self._ready and self._error is None

    @property
    def waiting(self) -> int:
        return self._size

    # in the writer's greenlet

    def report(self, function: Callable[[], object]) -> None:
        self._context.run(function)

    def take(self) -> bytes:
        if not self._ready and not self._over:
            if self._held and perf_counter() - self._turn > MAX_SLICE:
                self._give_turn()
            elif self._full:  # others may have much work as well
                self._full = False
                turns().pause()
            self._wait()
        if self._ready:
            taken = self._ready[0] if len(self._ready) == 1 else b"".join(self._ready)
            self._ready.clear()
            self._size = 0
            return taken
        if self._over:
            error, self._error = self._error, None
            try:
                raise error or StopIteration
            finally:
                del error  # a cycle, since its traceback holds this frame
        return b""

    def _wait(self) -> None:
        self._writer = getcurrent()
        try:
            if self._held:
                self._held = False
                self._since = _iteration(self._hub.loop)
                if self._tells:
                    self._gather()
                if self._source is None:
                    sources = _sources(self._hub)
                    self._source = sources.pop() if sources else _source(self._hub, sources)
                    self._source.gr_context = self._context
                    self._source.pump = self
                self._source.switch()
            else:
                self._since = -1
                self._tells = self._tells and self._idle()
                self._hub.switch()
        finally:
            self._writer = None

    def stop(self, close: Callable[[], object]) -> None:
        self._stopped = True
        interrupts = self._source is not None and not self._over
        if interrupts:
            self._close = close
            self._writer = getcurrent()
            try:
                self._source.throw(Interruption)
                while not self._over:  # its finally blocks may wait
                    self._hub.switch()
            finally:
                self._writer = None
        self._ready.clear()
        error, self._error = self._error, None
        self._idle = self._chunks = self._close = None  # they refer to the owner of this pump
        if self._source is None:
            close()
        elif not interrupts:  # close() may need the context of the source
            self._context.run(close)
        elif error is not None and not isinstance(error, GeneratorExit):
            raise error

    # in the loop

    def _source_waits(self) -> None:
        self._turn = perf_counter()
        self._gathers = False
        if self._writer is None:
            return  # the writer is in the server's send
        if self._ready:
            self._writer.switch()
        else:
            self._tells = self._tells and self._idle()

    def wake(self) -> None:
        if self._writer is not None:
            self._writer.switch()

    # in the source's greenlet

    def run(self) -> greenlet:
        """Run the source to its end. Returns the greenlet to switch to."""
        try:
            try:
                self._fill()
            finally:
                if self._close is not None:  # here, since its thread-locals belong to this greenlet
                    self._close()
        except BaseException as error:  # take() or stop() raises it in the writer's greenlet
            self._error = error
        self._over = True
        return self._writer or self._hub

    def _fill(self) -> None:
        append = self._ready.append
        for chunk in self._chunks:
            if self._stopped:
                break
            append(chunk)
            self._size += len(chunk)
            if not self._gathers and self._writer is not None:
                if _iteration(self._hub.loop) != self._since:
                    self._turn = perf_counter()
                    self._hold()
                    continue
                self._gather()
            if self._size >= self._most:
                self._full = self._most > 0
                self._hold()
            elif perf_counter() - self._turn > MAX_SLICE:
                self._hold() if self._writer is not None else self._give_turn()

    def _hold(self) -> None:
        self._held = True
        (self._writer or self._hub).switch()

    # in either greenlet

    def _gather(self) -> None:
        if not self._gathers:  # a callback from an earlier wait may still be pending
            self._gathers = True
            self._hub.loop.run_callback(self._source_waits)

    def _give_turn(self) -> None:
        turns().wait()
        self._turn = perf_counter()


def _nothing() -> bool:
    return False


def _iteration(loop: Any) -> int:
    """The number of the loop's round. 0 if it does not count: then all chunks are gathered."""
    return getattr(loop, "iteration", 0)


def _sources(hub: Any) -> list[Any]:
    """Idle greenlets of this hub, for the next sources.

    A new greenlet costs about 9 µs, more than all other work for a short stream. A greenlet can
    only run in the thread of its hub, so each hub has its own list.
    """
    try:
        return hub.vento_wsgi_sources  # type: ignore[no-any-return]
    except AttributeError:
        sources: list[Any] = []
        hub.vento_wsgi_sources = sources
        return sources


def _source(hub: Any, sources: list[Any]) -> Any:
    """A greenlet that runs the source of its attribute `pump`, then waits in `sources` for another.

    While it waits it holds neither the pump nor the context of the last source.
    """

    def run() -> None:
        while True:
            me: Any = getcurrent()
            back = me.pump.run()
            me.pump = me.gr_context = None
            # a weak reference means that a threading.local has values for this greenlet, which the
            # next source must not see
            if len(sources) >= MAX_SOURCES or getweakrefcount(me):
                me.parent = back
                return
            sources.append(me)
            back.switch()

    return greenlet(run, hub)
