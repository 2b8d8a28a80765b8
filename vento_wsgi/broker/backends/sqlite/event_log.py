"""SQLite: a log for all processes of one machine, which survives their restarts.

Every process has one connection. Its operations take microseconds and do not wait in C: if another
process holds the lock, the greenlet sleeps and tries again, and others run meanwhile. Checkpoints,
which wait for the disk, run in a thread; see checkpoints.py.

A log can be set back, that is, return to an older state: after a power failure, if a snapshot is
restored, if an older copy replaces the file, or if the journal is removed. SQLite then gives the
numbers of the lost entries to new ones. So a position is the number of an entry together with a
mark of that entry, which is made from the time of its publication. An id contains both, and is
valid while its entry exists. No code has to detect how the log was set back: ids of entries that
survived stay valid, and ids of lost entries lead to a gap.

The position before the oldest entry must be valid as well. So the newest of the dropped entries
stays in the table.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import stat
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from math import inf
from typing import TypeVar

from ....exceptions import BrokerError
from ....logs import logger
from ..epoch import Epoch
from ..event_log import Entry, Topics
from .checkpoints import Checkpoints, native, take
from .database import condition, connect, drop_journal, is_locked, mend, refusal
from .wakeups import Listener, Wakeups

__all__ = ["SQLite"]

log = logger(__name__)

BATCH = 1000
"""Entries that one query reads, of any topic: about a millisecond, then others can run."""

BATCH_BYTES = 1024 * 1024
"""Bytes of blocks that follow() yields at once, at most, plus one block."""

POLL = 0.5
"""Seconds between two reads of follow() without a wake-up: a lost one delays an event so long."""

PATIENCE = 5.0
"""Seconds to wait for the lock. We hold it under 1 ms, and it is released when a process dies."""

TRIM_EVERY = 64
"""Appends between two trims: so many entries may be kept beyond `count`."""

MAX_TRIMMED = 4 * TRIM_EVERY
"""Entries that one trim drops, at most: well under a millisecond of work."""

MAX_WAITING = 4 * 1024 * 1024
"""Bytes of the journal at which a checkpoint starts: some 500 events of the usual size."""

CHECK_EVERY = 16
"""Appends of all processes together between two checks of MAX_WAITING."""

MAX_JOURNAL = 64 * 1024 * 1024
"""Bytes of the journal at which publishers wait for a checkpoint.

Only reached if the disk is slower than the publishers, or another program reads the log for long.
The journal can grow one entry a process beyond it, since processes check before they write.
"""

LAST_CHECKPOINT = 1.0
"""Seconds that close() lets a checkpoint run, so that processes that publish once finish some."""

Position = tuple[int, int]
"""The number of an entry, from 1, and its mark."""

START: Position = (0, 0)

_MARK = re.compile("[0-9a-f]{8}")

T = TypeVar("T")


class SQLite:
    """The last `count` entries of the last `age` seconds, in the file at `path`.

    The file and missing directories are created for this user alone. If the file is removed and
    created again, it is a new log, and ids of the old one are not valid in it.
    """

    def __init__(self, path: str | os.PathLike[str], count: int, age: float) -> None:
        self._path = os.path.abspath(path)
        self._count = count
        self._age = age
        self._closed = False
        self._lock = threading.Lock()  # held while the connection is used; no greenlet switch then
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._file: os.stat_result | None = None
        self._journal: os.stat_result | None = None
        self._epoch = Epoch()
        self._trim_at = 0.0
        self._run(lambda _: None)  # raises BrokerError now if the log cannot be used
        self._disconnect()
        self._checkpoints = Checkpoints(self._path)
        self._listeners: set[Listener] = set()
        self._wakeups = Wakeups(f"{self._path}-wake")
        _logs.add(self)

    def append(self, topic: str, block: bytes) -> Position:
        position = self._run(lambda connection: self._insert(connection, topic, block))
        self._wakeups.send()
        if position[0] % CHECK_EVERY == 0 and self._waiting() > MAX_WAITING:
            self._checkpoints.start()
        return position

    def _waiting(self) -> int:
        """Bytes of the journal, as of the last use of the connection."""
        return 0 if self._journal is None else self._journal.st_size

    def _insert(self, connection: sqlite3.Connection, topic: str, block: bytes) -> Position:
        if self._waiting() > MAX_JOURNAL:
            self._checkpoints.start()
            raise _Full(f"its journal has {self._waiting() >> 20} MB, and is locked")
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        try:
            position = connection.execute(
                "INSERT INTO entries (at, topic, block) VALUES (?, ?, ?)", (now, topic, block)
            ).lastrowid
            assert position is not None
            # by the position, so that processes that append only once trim as well
            if position % TRIM_EVERY == 0 or time.monotonic() >= self._trim_at:
                self._trim(connection, position - self._count, now - self._age)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return position, _mark(now)

    def _trim(self, connection: sqlite3.Connection, over: int, expired: float) -> None:
        connection.execute(  # the newest of the dropped entries stays: see the module
            """DELETE FROM entries WHERE id < (
                SELECT max(id) FROM (SELECT id, at FROM entries ORDER BY id LIMIT ?)
                WHERE id <= ? OR at < ?
            )""",
            (MAX_TRIMMED, over, expired),
        )
        self._trim_at = time.monotonic() + min(self._age / 8, 60)

    def last(self) -> Position:
        return self._bounds()[1]

    def first(self) -> Position:
        return self._bounds()[0]

    def lost(self, after: Position) -> bool:
        return after not in self._bounds(after[0])

    def _bounds(self, number: int = 0) -> list[Position]:
        """The first and the last position, and that of entry `number` if it exists."""
        return self._run(lambda connection: _bounds(connection, number))

    def read(self, after: Position, topics: Topics, limit: int, size: float = inf) -> list[Entry]:
        (first, _), (last, _), *_ = self._bounds()
        start = max(after[0], first)
        wanted, values = condition(topics)
        query = f"""SELECT id, at, topic, block FROM entries
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

    def _next(self, after: Position) -> list[Entry] | None:
        """The entries after `after`; None if `after` is not in the history of the log."""
        query = "SELECT id, at, topic, block FROM entries WHERE id > ? ORDER BY id LIMIT ?"

        def work(connection: sqlite3.Connection) -> list[Entry] | None:
            entries = _rows(query, (after[0], BATCH), BATCH_BYTES, connection)
            # after the entries: so they are from the history that has `after`
            bounds = _bounds(connection, after[0])
            if after in bounds:
                return entries
            if after[0] >= bounds[0][0]:
                return None
            return [entry for entry in entries if entry.position > bounds[0]]

        return self._run(work)

    def follow(self, after: Position) -> Iterator[list[Entry]]:
        epoch, failed = None, False
        listener = self._listen()
        try:
            while not self._closed:
                try:
                    entries = self._next(after)
                    failed = False
                except BrokerError as error:
                    if not (failed or self._closed):
                        log.warning("reading new events fails, and is tried again: %s", error)
                    failed = True
                    listener.wait(POLL)
                    continue
                epoch = epoch or self._epoch
                if entries is None or epoch != self._epoch:
                    log.warning("%s was replaced or set back: streams end", self._path)
                    return
                if entries:
                    after = entries[-1].position
                    yield entries
                elif listener.is_there():
                    if self._waiting() > MAX_WAITING:  # left by processes that publish and end
                        self._checkpoints.start()
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

    def id(self, position: Position) -> str:
        number, mark = position
        return f"{self._epoch.id(number)}-{mark:08x}"

    def position(self, id: str) -> Position | None:
        start, _, mark = id.rpartition("-")
        number = self._epoch.position(start)
        return None if number is None or not _MARK.fullmatch(mark) else (number, int(mark, 16))

    def close(self) -> None:
        self._closed = True
        for listener in tuple(self._listeners):
            listener.wake()
        self._checkpoints.hold(LAST_CHECKPOINT)
        with self._lock:
            self._disconnect()
        self._checkpoints.release()
        self._wakeups.close()

    # the connection

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, which is called again while another process has the lock."""
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
                        f"holds a transaction open; see who with fuser(1) ({error})"
                    ) from error
            time.sleep(random.uniform(pause / 4, pause))
            pause = min(pause * 1.5, 0.02)

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise BrokerError("the broker has been closed: make a new one")
        if self._connection is not None and self._pid == os.getpid():
            if self._is_there():
                return self._connection
            if self._file is not None and self._journal is not None and self._is_replaced():
                drop_journal(self._path, self._journal)  # still open, so its inode is not reused
        self._disconnect()
        journal = _status(f"{self._path}-wal")
        connection = connect(self._path)
        try:
            status = os.stat(self._path)
            [(epoch,)] = connection.execute("SELECT epoch FROM log")
            if journal is not None and journal.st_size:
                mend(connection)
        except BaseException:
            connection.close()
            raise
        self._epoch = Epoch(epoch)
        self._connection, self._file, self._pid = connection, status, os.getpid()
        self._journal = _status(f"{self._path}-wal")
        return connection

    def _is_there(self) -> bool:
        """Whether the file and the journal that are open are still those at the path.

        SQLite continues to use files that were removed or replaced, and other processes would not
        see what it writes there.
        """
        file, journal = _status(self._path), _status(f"{self._path}-wal")
        if not _same(file, self._file) or not _same(journal, self._journal):
            return False
        self._journal = journal
        return True

    def _is_replaced(self) -> bool:
        file = _status(self._path)
        return file is not None and stat.S_ISREG(file.st_mode) and not _same(file, self._file)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._journal = None
        if connection is None:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)


def _rows(
    query: str, asked: tuple[object, ...], size: float, connection: sqlite3.Connection
) -> list[Entry]:
    """The entries that a query finds, up to the one that reaches `size` bytes of blocks."""
    entries: list[Entry] = []
    with closing(connection.execute(query, asked)) as rows:
        while size > 0 and (row := rows.fetchone()) is not None:
            number, at, topic, block = row
            entries.append(Entry((number, _mark(at)), topic, block))
            size -= len(block)
    return entries


class _Full(sqlite3.OperationalError):
    """The journal is too long to write to. Handled like a lock."""


def _bounds(connection: sqlite3.Connection, number: int) -> list[Position]:
    kept = connection.execute(
        """SELECT id, at FROM entries WHERE id IN
            ((SELECT min(id) FROM entries), (SELECT max(id) FROM entries), ?) ORDER BY id""",
        (number,),
    ).fetchall()
    if not kept:  # nothing was published yet, or somebody deleted all rows
        [(given,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
        return [(given, 0), (given, 0)]
    positions = [(each, _mark(at)) for each, at in kept]
    first = START if positions[0][0] == 1 else positions[0]
    return [first, positions[-1], *positions]


def _mark(at: float) -> int:
    """32 bits made from the time of a publication, whose precision is below a microsecond.

    The time itself would be longer, and would tell clients more than they need to know.
    """
    return zlib.crc32(struct.pack("<d", at))


def _status(path: str) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)
    return None


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


# No connection may be open when a process forks: the SQLite of the child would believe that it
# holds the parent's locks. https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_

_logs: weakref.WeakSet[SQLite] = weakref.WeakSet()
_held: list[SQLite] = []
_inherited: list[sqlite3.Connection] = []
"""Connections from a parent that forked without Python's hooks (uWSGI): never use or close them."""
_forking = native("_thread", "allocate_lock")()


def _before_fork() -> None:
    take(_forking, certain=True)  # another thread or greenlet may be forking
    # other greenlets run while this one waits for a checkpoint, and may open more logs
    while more := [each for each in _logs if each not in _held]:
        for each in more:
            each._checkpoints.hold(certain=True)
            _held.append(each)
    # no other greenlet runs from here on: it could block the loop waiting for one of these locks
    for each in _held:
        each._lock.acquire()
        each._disconnect()


def _after_fork_in_parent() -> None:
    while _held:
        each = _held.pop()
        each._lock.release()
        each._checkpoints.release()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = native("_thread", "allocate_lock")()
    _held.clear()
    for each in list(_logs):
        each._lock = threading.Lock()
        each._checkpoints = Checkpoints(each._path)
        each._listeners = set()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
