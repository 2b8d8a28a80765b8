"""GreenletPump: the pump of gevent's servers.

It makes a chatty source cheap and a silent one watchable. The source
runs in a greenlet of its own and fills a buffer. The writer asks, and switches straight to the
source. There are two ways to hand over what comes then:

- The loop has had its turn since: the source comes out of a wait of its own. The chunk goes
  straight to the writer, before any other greenlet has its turn.
- It has not: the chunk was ready, and more may be. A callback is left with the loop, which runs
  when the source blocks, and only then: whatever was made until that moment leaves together.

A source that does not block is cut by size and by time, and the loop gets its turn. A source
whose buffer is full is held until the writer comes back: it can never be further ahead.
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
"""GreenletPump kept for the next source: each holds some 20 KB, and few streams end at a time."""


class GreenletPump:
    """The source runs in a greenlet beside the writer's. See the theory above.

    context: what the source runs in; by default a copy of the current one.

    Until a Stream says how it is to flow, each chunk is one take.
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
        self._gathers = False  # _source_waits is with the loop
        self._full = False  # it was held because its buffer was full
        self._held = True  # the source goes on when the writer switches to it
        self._since = 0  # the loop's iteration in which the writer began to wait
        self._tells = True  # call _idle when the source waits and nothing is ready
        self._stopped = False
        self._close: Callable[[], object] | None = None  # for the source, when it is stopped
        self._error: BaseException | None = None
        self._turn = perf_counter()  # when the loop is known to have had its turn

    def flow(self, idle: Callable[[], bool], *, each: bool) -> None:
        self._idle, self._tells = idle, True  # the source may have waited before it had a Stream
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
            elif self._full:  # others may have much to do, too
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
                del error  # its traceback has this frame: a cycle, with all that the source had
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
        self._idle = self._chunks = self._close = None  # which lead back to whom this belongs
        if self._source is None:
            close()
        elif not interrupts:  # in the context of the source, which it may belong to
            self._context.run(close)
        elif error is not None and not isinstance(error, GeneratorExit):
            raise error

    # in the loop

    def _source_waits(self) -> None:
        self._turn = perf_counter()
        self._gathers = False
        if self._writer is None:
            return  # it is in the server's send
        if self._ready:
            self._writer.switch()
        else:
            self._tells = self._tells and self._idle()

    def wake(self) -> None:
        if self._writer is not None:
            self._writer.switch()

    # in the source's greenlet

    def run(self) -> greenlet:
        """Run the source to its end; the greenlet to go on with."""
        try:
            try:
                self._fill()
            finally:
                if self._close is not None:  # here: what it has by thread it has by greenlet
                    self._close()
        except BaseException as error:  # it is the writer's to deal with
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

    # in either

    def _gather(self) -> None:
        if not self._gathers:  # one that came too late for its pump may be there still
            self._gathers = True
            self._hub.loop.run_callback(self._source_waits)

    def _give_turn(self) -> None:
        turns().wait()
        self._turn = perf_counter()


def _nothing() -> bool:
    return False


def _iteration(loop: Any) -> int:
    """How many turns the loop has had; 0 where it does not say: then all chunks gather."""
    return getattr(loop, "iteration", 0)


def _sources(hub: Any) -> list[Any]:
    """GreenletPump of this hub that have no source just now.

    A new greenlet costs some 9 µs, more than all else about a short stream. A greenlet runs in
    the thread of its hub only, so each hub keeps its own.
    """
    try:
        return hub.vento_wsgi_sources  # type: ignore[no-any-return]
    except AttributeError:
        sources: list[Any] = []
        hub.vento_wsgi_sources = sources
        return sources


def _source(hub: Any, sources: list[Any]) -> Any:
    """A greenlet that runs the source of its `pump`, and then waits in `sources` for the next.

    While it waits it holds nothing of the last one: neither pump nor context.
    """

    def run() -> None:
        while True:
            me: Any = getcurrent()
            back = me.pump.run()
            me.pump = me.gr_context = None
            # a threading.local of the last source refers to it: the next one must not see that
            if len(sources) >= MAX_SOURCES or getweakrefcount(me):
                me.parent = back
                return
            sources.append(me)
            back.switch()

    return greenlet(run, hub)
