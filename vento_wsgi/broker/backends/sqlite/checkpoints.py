"""Checkpoints: SQLite's journal is written back in a thread that may wait for the disk.

A checkpoint copies the write-ahead log (the journal, the file that ends in "-wal") into the
database and empties it. It waits for the disk several times. SQLite would do that in the middle
of a commit, and no other greenlet would run. Here a thread of the system does it, also under
gevent, with a connection of its own.

Emptying the journal needs the lock of writers for a moment, and no reader that still uses the
journal. The thread waits for both, in short tries: while it waits it may hold the lock of
writers, and publishers wait for that.
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
"""Seconds of one try: how long publishers may have to wait for a reader that takes long."""

PAUSE = 0.8
"""Seconds between two tries: publishers have these for themselves."""

TRIES = 5
"""Tries of one checkpoint; whoever publishes next starts another one."""


class Checkpoints:
    """The checkpoints that this process makes, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._busy = native("_thread", "allocate_lock")()  # held while one runs
        self._connection: sqlite3.Connection | None = None
        self._stop = False

    def start(self) -> None:
        """Start one, unless one runs. Does not wait."""
        if self._busy.acquire(False):
            self._stop = False
            try:
                native("_thread", "start_new_thread")(self._run, ())
            except RuntimeError:  # no thread can be started: the next one makes up for it
                self._busy.release()

    def hold(self, patience: float = 0.0, *, certain: bool = False) -> None:
        """Have none running until release(). One that runs is interrupted after `patience` seconds.

        It ends then as soon as the disk lets it, within milliseconds as a rule.
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
            with suppress(sqlite3.ProgrammingError):  # it has just been closed
                connection.interrupt()

    def _run(self) -> None:
        try:
            # What is wrong is told by the next append
            with suppress(sqlite3.Error, BrokerError), closing(connect(self._path, TRY)) as made:
                self._connection = made
                for number in range(TRIES):
                    if self._stop or (number and self._paused()) or _write_back(made):
                        break
        finally:
            self._connection = None
            self._busy.release()

    def _paused(self) -> bool:
        """Wait for PAUSE seconds; whether it was stopped meanwhile."""
        for _ in range(40):
            native("time", "sleep")(PAUSE / 40)
            if self._stop:
                return True
        return False


def _write_back(connection: sqlite3.Connection) -> bool:
    """Write the journal back and empty it. False if others were in the way."""
    # The first copies nearly all of it while others write; the second has little left to copy
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    [(busy, _, _)] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if not busy:
        # The first commit to an empty journal waits for the disk: it had better be this one
        connection.execute("UPDATE log SET checkpoints = checkpoints + 1")
    return not busy


def take(lock: Any, waiting: Callable[[], object] = lambda: None, *, certain: bool = False) -> None:
    """Take a lock of the system. Under gevent the other greenlets run meanwhile.

    waiting: called again and again until the lock is there.
    certain: do not give up when this greenlet is killed or its time is over. Python forks even
        if a function that is called before a fork raises; the exception is lost then.
    """
    sleep = time.sleep
    if cooperative():
        from gevent import get_hub, getcurrent

        if getcurrent() is get_hub():  # the loop cannot wait for what runs in the loop
            sleep = native("time", "sleep")
    while not lock.acquire(False):
        waiting()
        try:
            sleep(0.001)
        except BaseException:
            if not certain:
                raise


def native(module: str, name: str) -> Any:
    """A function of the standard library, also where gevent has put another in its place."""
    if cooperative():
        from gevent.monkey import get_original

        return get_original(module, name)
    return getattr(import_module(module), name)
