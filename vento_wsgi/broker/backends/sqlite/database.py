"""The file of a SQLite log: whole from the moment that it is there, and checked before use.

It is made beside its place under another name and then linked into it, so that of several
processes that find none at the same time one makes it, and nobody sees half of it. A file that
is something else is read, as bytes that do not change, and refused: opening it as a database
could already write to it.
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

APPLICATION = 0x56454E54  # "VENT", for file(1) and for us
VERSION = 1

# AUTOINCREMENT: an id is never given twice, not even when all entries have been dropped.
# The block stands last: the pages of a long one are not read when its topic is not wanted.
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
    """A connection to the log at `path`, which is made if there is none.

    timeout: seconds to wait for a lock. SQLite waits in C, and no other greenlet runs meanwhile.
    Raises BrokerError, and sqlite3.Error for what is locked.
    """
    try:
        if not os.path.lexists(path):
            _create(path)
    except OSError as error:
        raise BrokerError(
            f"no log can be made at {path}: {error}; give a path that this user may write"
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
        # NORMAL: a commit does not wait for the disk. All that is published survives the death
        # of any process; what the last moments before a power failure published may be lost.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # that waits for the disk
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
    # one at a time, or the journal of the one that was first would be removed by the next
    with _locked(directory):
        if not os.path.lexists(path):
            # SQLite would play the journal of a file that was removed into the new one
            _remove(f"{path}-wal", f"{path}-shm")
            os.link(draft, path)


def drop_journal(path: str, journal: os.stat_result) -> None:
    """Remove `journal` if it is still there: it belongs to a file that another has replaced.

    SQLite would play it into the new file, and mix two histories.
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
    """Make a directory, and the parents that are missing, for this user alone.

    os.makedirs gives its mode to the last one only, and the others what the umask leaves of 0777.
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
    """Drop what comes before a hole in the numbers of the entries.

    There is a hole when somebody has put another file beside a journal, or overwritten the file
    while it was in use: SQLite makes one history of two then. What comes after the last hole is
    one history. It takes 0.2 µs an entry.
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
    """Refuse a file that is no log. Closing it otherwise than SQLite would drop SQLite's locks."""
    try:
        with closing(sqlite3.connect(_uri(path, "immutable=1"), uri=True)) as connection:
            # Of a checkpoint that is under way, or whose process was killed, the first page may
            # be there and the last ones in the journal only: SQLite is not to compare the sizes
            connection.execute("PRAGMA writable_schema = ON")
            [(application,)] = connection.execute("PRAGMA application_id")
            [(version,)] = connection.execute("PRAGMA user_version")
    except sqlite3.Error as error:
        raise refusal(path, error) from error
    if application != APPLICATION:
        raise BrokerError(
            f"{path} is no log of vento_wsgi, and is left as it is: give another path"
        )
    if version != VERSION:
        raise BrokerError(
            f"{path} is a log of version {version}, this vento_wsgi writes {VERSION}: "
            "give another path, or run the version that made it"
        )


def condition(topics: Topics) -> tuple[str, tuple[str, ...]]:
    """The condition for an entry to be of `topics`, and its values."""
    # in json, since a statement takes no more than 999 values before SQLite 3.32
    terms, values = [], []
    if topics.names:
        terms.append("topic IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([*topics.names]))
    if topics.prefixes:  # these end in "/", and "0" is the next character
        terms.append(
            """EXISTS (SELECT 1 FROM json_each(?)
                WHERE topic >= value AND topic < substr(value, 1, length(value) - 1) || '0')"""
        )
        values.append(json.dumps(topics.prefixes))
    return " OR ".join(terms) or "0", tuple(values)


def refusal(path: str, error: sqlite3.Error) -> BrokerError:
    """What to say of an error that another try would not mend."""
    if isinstance(error, sqlite3.OperationalError):
        advice = "this user must be able to write it and its directory, and the disk have room"
    else:
        advice = (
            "it is damaged, or no log at all, and is left as it is: move it away, together with "
            f"{path}-wal, which SQLite mixes into any file that is put in its place"
        )
    return BrokerError(f"the log {path} cannot be used: {error}; {advice}")


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another process was at it: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL."""
    return isinstance(error, sqlite3.OperationalError) and "lock" in str(error)


def _uri(path: str, query: str) -> str:
    return f"file:{quote(os.fsencode(path))}?{query}"
