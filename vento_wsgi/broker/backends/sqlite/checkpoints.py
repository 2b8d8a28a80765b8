"""Checkpoints: a native thread writes SQLite's journal back into the database.

A checkpoint copies the write-ahead log (here called the journal, the file that ends in "-wal")
into the database and empties it. It waits for the disk several times. By default SQLite does that
within a commit, and meanwhile no other greenlet could run. So here a native thread does it, with
a connection of its own, also under gevent.

To empty the journal, the thread needs the writers' lock for a moment, and no reader may be using
the journal. The thread waits for both in short attempts: while it waits it may hold the writers'
lock, which stops publishers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from typing import Any

from ....exceptions import BrokerError
from ....streaming.pumps import cooperative
from .database import connect

__all__ = ["Checkpoints", "take"]

TRY = 0.2
"""Seconds of one attempt, at most: publishers may have to wait that long for a slow reader."""

PAUSE = 0.8
"""Seconds between two attempts, in which publishers can write."""

TRIES = 5
"""Attempts of one checkpoint. If all fail, a later publication starts another checkpoint."""


class Checkpoints:
    """The checkpoints that this process makes, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._busy = native("_thread", "allocate_lock")()  # held while a checkpoint runs
        self._connection: sqlite3.Connection | None = None
        self._stop = False

    def start(self) -> None:
        """Start a checkpoint, unless one is running. Does not wait."""
        if self._busy.acquire(False):
            self._stop = False
            try:
                native("_thread", "start_new_thread")(self._run, ())
            except RuntimeError:  # no thread can be started: a later call will try again
                self._busy.release()

    def hold(self, patience: float = 0.0, *, certain: bool = False) -> None:
        """Prevent checkpoints until release(). Interrupts a running one after `patience` seconds.

        An interrupted checkpoint ends as soon as the disk allows, usually within milliseconds.
        certain: see take().
        """
        until = time.monotonic() + patience
        take(self._busy, lambda: self._interrupt(until), certain=certain)

    def release(self) -> None:
        self._busy.release()

    def _interrupt(self, until: float) -> None:
        if time.monotonic() < until:
            return
        self._stop = True
        if (connection := self._connection) is not None:
            with suppress(sqlite3.ProgrammingError):  # the connection has just been closed
                connection.interrupt()

    def _run(self) -> None:
        try:
            # the next append reports an error that persists
            with suppress(sqlite3.Error, BrokerError), closing(connect(self._path, TRY)) as made:
                self._connection = made
                for number in range(TRIES):
                    if self._stop or (number and self._paused()) or _write_back(made):
                        break
        finally:
            self._connection = None
            self._busy.release()

    def _paused(self) -> bool:
        """Wait for PAUSE seconds. Returns whether the checkpoint was stopped meanwhile."""
        for _ in range(40):
            native("time", "sleep")(PAUSE / 40)
            if self._stop:
                return True
        return False


def _write_back(connection: sqlite3.Connection) -> bool:
    """Write the journal back and empty it. False if a reader or writer prevented it."""
    # PASSIVE copies nearly everything while others write, so TRUNCATE has little left to copy
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    [(busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if not busy:
        # the first commit to an empty journal waits for the disk, so it is made in this thread
        connection.execute("UPDATE log SET checkpoints = checkpoints + 1")
    return not busy


def take(lock: Any, waiting: Callable[[], object] = lambda: None, *, certain: bool = False) -> None:
    """Acquire a native lock. Under gevent other greenlets run meanwhile.

    waiting: called repeatedly while the lock is held by another.
    certain: do not give up if this greenlet is killed or a timeout is raised in it. Needed before
        a fork: Python forks even if a hook raises, and drops the exception.
    """
    sleep = time.sleep
    if cooperative():
        from gevent import get_hub, getcurrent

        if getcurrent() is get_hub():  # the hub itself cannot sleep cooperatively
            sleep = native("time", "sleep")
    while not lock.acquire(False):
        waiting()
        try:
            sleep(0.001)
        except BaseException:
            if not certain:
                raise


def native(module: str, name: str) -> Any:
    """The original function of the standard library, even if gevent has patched it."""
    if cooperative():
        from gevent.monkey import get_original

        return get_original(module, name)
    return getattr(import_module(module), name)
