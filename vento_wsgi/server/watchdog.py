"""Watchdog: log the line of code that blocks the event loop.

A source that computes for long, or waits in C code without gevent, stops all streams of the worker.
A native thread checks how long ago the loop last ran. If it is too long, the thread logs the
current line of the loop's thread, once for each block.

gevent's own monitor thread would not do. It traces every greenlet switch, which costs 0.15 µs each;
it does not see callbacks that block the loop; and its report lists all greenlets of the process.
"""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from gevent.monkey import get_original

from ..logs import logger

__all__ = ["Watchdog"]

log = logger(__name__)

_PACKAGE = str(Path(__file__).resolve().parent.parent)


class Watchdog:
    """Watches the loop of the thread that creates it. limit: seconds without a turn of the loop."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen = time.monotonic()
        self._told = False
        self._thread: int = get_original("_thread", "get_ident")()
        self._sleep: Any = get_original("time", "sleep")
        get_original("_thread", "start_new_thread")(self._watch, ())

    def tick(self, now: float) -> None:
        """Called regularly by a timer of the loop."""
        self._seen = now
        self._told = False

    def _watch(self) -> None:
        while True:
            self._sleep(self._limit / 4)
            late = time.monotonic() - self._seen
            if late > self._limit and not self._told:
                self._told = True
                frame = sys._current_frames().get(self._thread)
                if frame is not None:
                    log.warning("the loop had no turn for %.1f s: %s", late, _where(frame))
                del frame


def _where(frame: FrameType) -> str:
    here = _line(frame)
    walk: FrameType | None = frame
    generator = None
    while walk is not None and not walk.f_code.co_filename.startswith(_PACKAGE):
        if walk.f_code.co_flags & inspect.CO_GENERATOR:
            generator = walk
        walk = walk.f_back
    if generator is None:
        return here
    line = _line(generator)
    return line if generator is frame else f"{line}, at {here}"


def _line(frame: FrameType) -> str:
    code: CodeType = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f'"{code.co_filename}", line {frame.f_lineno}, in {name}'
