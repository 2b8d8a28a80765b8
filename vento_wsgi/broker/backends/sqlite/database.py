"""The file of a SQLite log: it appears complete, and is checked before use.

A new file is created under another name and then linked to its path. So if several processes
create it at the same time, one succeeds, and none sees an incomplete file. A file that is no log
is refused. The check reads it as immutable, because opening it normally could already change it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote

from ....exceptions import BrokerError
from ..epoch import Epoch
from ..event_log import Topics

__all__ = [
    "condition",
    "connect",
    "drop_journal",
    "is_locked",
    "make_directory",
    "mend",
    "refusal",
]

APPLICATION = 0x56454E54  # "VENT": the application_id, which file(1) also shows
VERSION = 1

# AUTOINCREMENT: SQLite never reuses an id, even if all entries were dropped.
# The block is the last column: SQLite does not read its pages if the topic does not match.
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
BEGIN;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, topic TEXT NOT NULL, block BLOB NOT NULL
);
INSERT INTO sqlite_sequence (name, seq) VALUES ('entries', 0);
CREATE TABLE log (epoch TEXT NOT NULL, checkpoints INTEGER NOT NULL);
INSERT INTO log VALUES ('{{}}', 0);
COMMIT;
"""


def connect(path: str, timeout: float = 0) -> sqlite3.Connection:
    """A connection to the log at `path`, which is created if it does not exist.

    timeout: seconds to wait for a lock. SQLite waits in C, and no other greenlet runs meanwhile.
    Raises BrokerError, and sqlite3.Error if the log is locked.
    """
    try:
        if not os.path.lexists(path):
            _create(path)
    except OSError as error:
        raise BrokerError(
            f"no log can be created at {path}: {error}; give a path that this user can write"
        ) from error
    _check(path)
    connection = sqlite3.connect(
        _uri(path, "mode=rw"),
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # NORMAL: a commit does not wait for the disk. Published events survive the death of any
        # process, but those of the last moments before a power failure may be lost.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # a checkpoint waits for the disk
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: str) -> None:
    directory = os.path.dirname(path)
    make_directory(directory)
    draft = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        try:
            with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.executescript(_SCHEMA.format(Epoch.draw()))
        except sqlite3.Error as error:
            raise refusal(path, error) from error
        _link(draft, path, directory)
    finally:
        _remove(draft, f"{draft}-journal", f"{draft}-wal", f"{draft}-shm")


def _link(draft: str, path: str, directory: str) -> None:
    # under a lock: a second process would remove the journal that the first already uses
    with _locked(directory):
        if not os.path.lexists(path):
            # SQLite would apply the journal of a removed file to the new one
            _remove(f"{path}-wal", f"{path}-shm")
            os.link(draft, path)


def drop_journal(path: str, journal: os.stat_result) -> None:
    """Remove `journal` if it is still at its path. It belongs to a file that was replaced.

    SQLite would apply it to the new file, and so mix two histories.
    """
    with suppress(OSError), _locked(os.path.dirname(path)):
        if os.path.samestat(os.stat(f"{path}-wal"), journal):
            _remove(f"{path}-wal", f"{path}-shm")


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def make_directory(path: str) -> None:
    """Create a directory and its missing parents, with mode 0700.

    os.makedirs() uses its mode for the last directory only; the parents get 0777 less the umask.
    """
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make_directory(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def mend(connection: sqlite3.Connection) -> None:
    """Drop all entries before the last hole in their numbers. Takes 0.2 µs an entry.

    A hole appears if somebody replaced the file but not its journal, or overwrote the file while
    it was in use: SQLite then merges two histories. The entries after the last hole are from one.
    """
    [(number, oldest, newest)] = connection.execute(
        "SELECT count(*), min(id), max(id) FROM entries"
    ).fetchall()
    [(given,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
    if not number or (newest - oldest + 1 == number and newest >= given):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            """DELETE FROM entries WHERE id < (SELECT max(id) FROM entries AS each WHERE NOT EXISTS
                (SELECT 1 FROM entries AS before WHERE before.id = each.id - 1))"""
        )
        connection.execute(
            """UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM entries)
                WHERE name = 'entries'"""
        )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _remove(*paths: str) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _check(path: str) -> None:
    """Raise BrokerError if a file is no log.

    The file is read through SQLite: open() and close() would release SQLite's POSIX locks on it.
    """
    try:
        with closing(sqlite3.connect(_uri(path, "immutable=1"), uri=True)) as connection:
            # During a checkpoint, or after one that was killed, the first page may already be
            # written while the last ones are in the journal only. writable_schema keeps SQLite
            # from comparing the sizes.
            connection.execute("PRAGMA writable_schema = ON")
            [(application,)] = connection.execute("PRAGMA application_id")
            [(version,)] = connection.execute("PRAGMA user_version")
    except sqlite3.Error as error:
        raise refusal(path, error) from error
    if application != APPLICATION:
        raise BrokerError(f"{path} is no log of vento_wsgi and is not changed: give another path")
    if version != VERSION:
        raise BrokerError(
            f"{path} is a log of version {version}, but this vento_wsgi writes version {VERSION}: "
            "give another path, or run the vento_wsgi that made it"
        )


def condition(topics: Topics) -> tuple[str, tuple[str, ...]]:
    """The SQL condition that an entry is of `topics`, and its parameters."""
    # as JSON, since a statement has at most 999 parameters before SQLite 3.32
    terms, values = [], []
    if topics.names:
        terms.append("topic IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([*topics.names]))
    if topics.prefixes:  # each ends in "/", and the character after "/" is "0"
        terms.append(
            """EXISTS (SELECT 1 FROM json_each(?)
                WHERE topic >= value AND topic < substr(value, 1, length(value) - 1) || '0')"""
        )
        values.append(json.dumps(topics.prefixes))
    return " OR ".join(terms) or "0", tuple(values)


def refusal(path: str, error: sqlite3.Error) -> BrokerError:
    """The BrokerError for an error that another attempt would not fix."""
    if isinstance(error, sqlite3.OperationalError):
        advice = "this user must be able to write it and its directory, and the disk have room"
    else:
        advice = (
            "it is damaged or no log, and is not changed: move it away, together with "
            f"{path}-wal, which SQLite would apply to any new file at this path"
        )
    return BrokerError(f"the log {path} cannot be used: {error}; {advice}")


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another process held a lock: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL."""
    return isinstance(error, sqlite3.OperationalError) and "lock" in str(error)


def _uri(path: str, query: str) -> str:
    return f"file:{quote(os.fsencode(path))}?{query}"
