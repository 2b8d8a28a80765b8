"""Checkpoints: what SQLite would do in the middle of a commit, done where it may take its time.

A checkpoint copies the write-ahead log into the database and starts it anew; it waits for the
disk several times, and so does whoever writes to the new one first. This happens in a thread of
the system, also under gevent, with a connection of its own: others go on reading and writing,
and publishers that come at its end wait for the lock as for each other's.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from importlib import import_module
from typing import Any

from ..exceptions import BrokerError
from ..pump import cooperative
from .database import connect

__all__ = ["Checkpoints"]

MAX_WAIT = 1.0
"""Seconds to wait for one at the end, or before a fork: dozens of times what a disk needs."""


class Checkpoints:
    """Those that this process makes, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._running: Any = None  # a lock that is held while one runs

    def start(self) -> None:
        if self._running is not None and not self._running.acquire(False):
            return
        self._running = running = _native("allocate_lock")()
        running.acquire()
        _native("start_new_thread")(_run, (self._path, running))

    def wait(self) -> None:
        if self._running is not None:
            self._running.acquire(True, MAX_WAIT)
            self._running = None

    def forget(self) -> None:
        """In a child: it is the parent's."""
        self._running = None


def _run(path: str, running: Any) -> None:
    try:
        # one that fails is made up for by the next, and what is wrong is found by an append
        with suppress(sqlite3.Error, BrokerError), closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            # what came meanwhile is little: with it, the log can start again
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            connection.execute("UPDATE log SET checkpoints = checkpoints + 1")
    finally:
        running.release()


def _native(name: str) -> Any:
    """A function of _thread, also where gevent has put another in its place."""
    if cooperative():
        from gevent.monkey import get_original

        return get_original("_thread", name)
    return getattr(import_module("_thread"), name)
