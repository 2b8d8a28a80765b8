"""SQLite: a log for all processes of one machine, which survives their restarts.

Every process has one connection. What it does there takes microseconds and never waits: when
another process is writing, the greenlet sleeps and tries again, and the others have their turn.
What waits for the disk runs elsewhere: see checkpoints.py.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from math import inf
from typing import TypeVar

from ..exceptions import BrokerError
from .checkpoints import Checkpoints
from .database import condition, connect, is_locked, refusal
from .epoch import Epoch
from .log import Entry, Topics
from .wakeups import Listener, Wakeups

__all__ = ["SQLite"]

log = logging.getLogger(__name__)

BATCH = 1000
"""Entries read at once, wanted or not: about a millisecond, then others have their turn."""

BATCH_BYTES = 1024 * 1024
"""Bytes of blocks that follow() gives at once, and one block: what a worker can hold."""

POLL = 0.5
"""Seconds between looks when nothing is told: how late a lost wake-up makes an event."""

PATIENCE = 5.0
"""Seconds to wait for the lock: it is held for less than a millisecond, by the dead never."""

TRIM_EVERY = 64
"""Appends between two trims: as many entries as may be kept too many."""

MAX_TRIMMED = 4 * TRIM_EVERY
"""Entries that one trim drops: well under a millisecond, and it catches up."""

CHECKPOINT_EVERY = 512
"""Appends between two checkpoints: each writes some 8 KB to the journal, which has 4 MB then."""

T = TypeVar("T")


class SQLite:
    """The last `count` entries of the last `age` seconds, in the file at `path`.

    A directory that is missing is made for this user alone, as the file is. Positions start
    anew, and ids are foreign, when the file is removed and made again.
    """

    def __init__(self, path: str | os.PathLike[str], count: int, age: float) -> None:
        self._path = os.path.abspath(path)
        self._count = count
        self._age = age
        self._closed = False
        self._lock = threading.Lock()  # held while the connection is used, over no switch
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._file: os.stat_result | None = None
        self._epoch = Epoch()
        self._trim_at = 0.0
        self._run(lambda _: None)  # what cannot be used is refused here
        self._disconnect()
        self._checkpoints = Checkpoints(self._path)
        self._listeners: set[Listener] = set()
        self._wakeups = Wakeups(f"{self._path}-wake")
        _logs.add(self)

    def append(self, topic: str, block: bytes) -> int:
        position = self._run(lambda connection: self._insert(connection, topic, block))
        self._wakeups.send()
        if position % CHECKPOINT_EVERY == 0:
            self._checkpoints.start()
        return position

    def _insert(self, connection: sqlite3.Connection, topic: str, block: bytes) -> int:
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        try:
            position = connection.execute(
                "INSERT INTO entries (at, topic, block) VALUES (?, ?, ?)", (now, topic, block)
            ).lastrowid
            assert position is not None
            # by the position, so that processes that append once in their lives trim as well
            if position % TRIM_EVERY == 0 or time.monotonic() >= self._trim_at:
                self._trim(connection, position - self._count, now - self._age)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return position

    def _trim(self, connection: sqlite3.Connection, over: int, expired: float) -> None:
        connection.execute(
            """DELETE FROM entries WHERE id <= (
                SELECT max(id) FROM (SELECT id, at FROM entries ORDER BY id LIMIT ?)
                WHERE id <= ? OR at < ?
            )""",
            (MAX_TRIMMED, over, expired),
        )
        self._trim_at = time.monotonic() + min(self._age / 8, 60)

    def last(self) -> int:
        return self._bounds()[1]

    def first(self) -> int:
        return self._bounds()[0]

    def lost(self, after: int) -> bool:
        first, last = self._bounds()
        return not first <= after <= last

    def _bounds(self) -> tuple[int, int]:
        query = """SELECT coalesce((SELECT min(id) - 1 FROM entries), seq), seq
            FROM sqlite_sequence WHERE name = 'entries'"""
        [(first, last)] = self._run(lambda connection: connection.execute(query).fetchall())
        return first, last

    def read(self, after: int, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        first, last = self._bounds()
        start = max(after, first)
        wanted, values = condition(topics)
        query = f"""SELECT id, topic, block FROM entries
            WHERE id > ? AND id <= ? AND ({wanted}) ORDER BY id LIMIT ?"""
        found: list[Entry] = []
        while start < last and len(found) < limit and size > 0:
            end = min(start + BATCH, last)
            asked = (start, end, *values, limit - len(found))
            entries = self._run(partial(_rows, query, asked, size))
            size -= sum(len(entry.block) for entry in entries)
            found += entries
            start = end
            time.sleep(0)
        return found

    def _next(self, after: int) -> list[Entry]:
        query = "SELECT id, topic, block FROM entries WHERE id > ? ORDER BY id LIMIT ?"
        return self._run(partial(_rows, query, (after, BATCH), BATCH_BYTES))

    def follow(self, after: int) -> Iterator[list[Entry]]:
        epoch, failed = self._epoch, False
        listener = self._listen()
        try:
            while not self._closed:
                try:
                    entries = self._next(after)
                    failed = False
                except BrokerError as error:
                    if not (failed or self._closed):
                        log.warning("following goes on when it can: %s", error)
                    failed = True
                    listener.wait(POLL)
                    continue
                if epoch != self._epoch:  # the file has been made anew, and is read from its start
                    epoch, after = self._epoch, 0
                elif entries:
                    after = entries[-1].position
                    yield entries
                elif listener.is_there():
                    listener.wait(POLL)
                else:
                    self._leave(listener)
                    listener = self._listen()
        finally:
            self._leave(listener)

    def _listen(self) -> Listener:
        listener = self._wakeups.listen()
        self._listeners.add(listener)
        return listener

    def _leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        listener.close()

    def id(self, position: int) -> str:
        return self._epoch.id(position)

    def position(self, id: str) -> int | None:
        return self._epoch.position(id)

    def close(self) -> None:
        self._closed = True
        for listener in tuple(self._listeners):
            listener.wake()
        self._checkpoints.wait()
        with self._lock:
            self._disconnect()
        self._wakeups.close()

    # the connection

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives, called again while another process has the lock."""
        give_up, pause = 0.0, 0.001
        while True:
            try:
                with self._lock:
                    return work(self._connected())
            except sqlite3.Error as error:
                if not is_locked(error):
                    raise refusal(self._path, error) from error
                now = time.monotonic()
                give_up = give_up or now + PATIENCE
                if now > give_up:
                    raise BrokerError(
                        f"{self._path} has been locked for {PATIENCE:g} s: another program "
                        "holds a transaction open; see who with fuser(1)"
                    ) from error
            time.sleep(random.uniform(pause / 4, pause))
            pause = min(pause * 1.5, 0.02)

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise BrokerError("the broker has been closed: make a new one")
        if self._connection is not None and self._pid == os.getpid() and self._is_there():
            return self._connection
        self._disconnect()
        connection = connect(self._path)
        try:
            status = os.stat(self._path)
            [(epoch,)] = connection.execute("SELECT epoch FROM log")
        except BaseException:
            connection.close()
            raise
        self._epoch = Epoch(epoch)
        self._connection, self._file, self._pid = connection, status, os.getpid()
        return connection

    def _is_there(self) -> bool:
        """Whether the file that is open is still the one at its path."""
        with suppress(OSError):
            return self._file is not None and os.path.samestat(os.stat(self._path), self._file)
        return False

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)


def _rows(
    query: str, asked: tuple[object, ...], size: float, connection: sqlite3.Connection
) -> list[Entry]:
    """The entries that are asked for, up to the one that reaches `size` bytes of blocks."""
    entries: list[Entry] = []
    with closing(connection.execute(query, asked)) as rows:
        while size > 0 and (row := rows.fetchone()) is not None:
            entries.append(Entry._make(row))
            size -= len(row[2])
    return entries


# A connection must not be there when a process forks: the child's SQLite would believe that it
# holds the parent's locks. https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_

_logs: weakref.WeakSet[SQLite] = weakref.WeakSet()
_held: list[SQLite] = []
_inherited: list[sqlite3.Connection] = []
"""Of a process that forked without telling us, as uWSGI does: never to be used, nor closed."""


def _before_fork() -> None:
    for each in list(_logs):
        each._checkpoints.wait()
        each._lock.acquire()
        _held.append(each)
        each._disconnect()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()


def _after_fork_in_child() -> None:
    _held.clear()
    for each in list(_logs):
        each._lock = threading.Lock()
        each._checkpoints.forget()
        each._listeners = set()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
