"""What holds for the log in SQLite: its file, its processes, its wake-ups, its locks."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.logs import LONG, SECONDS, Following, script, sqlite_journal, sqlite_source
from support.servers import eventually

from vento_wsgi.broker.backends.event_log import Topics
from vento_wsgi.broker.backends.sqlite import event_log as module
from vento_wsgi.broker.backends.sqlite.database import APPLICATION
from vento_wsgi.broker.backends.sqlite.event_log import START, SQLite
from vento_wsgi.broker.backends.sqlite.wakeups import MAX_PATH, Wakeups
from vento_wsgi.exceptions import BrokerError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "too" / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[SQLite]:
    log = SQLite(path, 10_000, LONG)
    yield log
    log.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The file.


def test_the_log_is_for_its_owner_alone(path: Path) -> None:
    mask = os.umask(0)
    try:
        log = SQLite(path, 10, LONG)
        with Following(log, log.last()) as following:
            following.reached(log.append("a", b""))
            assert mode(path.parent) == mode(path.parent.parent) == 0o700
            modes = {name.name: mode(name) for name in path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {
        "log.db": 0o600,
        "log.db-wal": 0o600,
        "log.db-shm": 0o600,
        "log.db-wake": 0o700,
    }


def test_a_log_goes_on_where_it_ended(path: Path) -> None:
    with closing(SQLite(path, 10, LONG)) as log:
        position = log.append("a", b"1")
        name = log.id(position)
    with closing(SQLite(path, 10, LONG)) as log:
        assert log.position(name) == position
        assert not log.lost(position)
        assert log.append("a", b"2")[0] == position[0] + 1
        assert [entry.block for entry in log.read(START, Topics("a"), 10)] == [b"1", b"2"]


def test_positions_are_not_given_again_when_all_entries_are_gone(path: Path) -> None:
    with closing(SQLite(path, 10, 0.0)) as log:
        position = log.append("a", b"")
        log._trim_at = 0.0
        assert log.append("a", b"")[0] == position[0] + 1
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM entries")
    with closing(SQLite(path, 10, LONG)) as log:
        last = log.last()
        assert log.first() == last > position
        assert log.lost(position)
        assert not log.lost(last)
        assert log.append("a", b"")[0] == position[0] + 2


def test_each_log_has_ids_of_its_own(log: SQLite, tmp_path: Path) -> None:
    with closing(SQLite(tmp_path / "other", 10, LONG)) as other:
        assert other.position(log.id(log.append("a", b""))) is None


def write_text(path: Path) -> None:
    path.write_text("a letter to somebody\n" * 100)


def write_nothing(path: Path) -> None:
    path.touch()


def write_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, what TEXT)")


def write_later_version(path: Path) -> None:
    SQLite(path, 10, LONG).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def write_directory(path: Path) -> None:
    path.mkdir()


def write_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


def write_half(path: Path) -> None:
    with closing(SQLite(path, 10, LONG)) as log:
        log.append("a", b"x" * 10_000)
    os.truncate(path, 6000)


def write_damage(path: Path) -> None:
    with closing(SQLite(path, 10, LONG)) as log:
        log.append("a", b"x" * 10_000)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def siblings(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_text, "not a database.* move it away"),
        (write_nothing, "no log of vento_wsgi"),
        (write_database, "no log of vento_wsgi.* another path"),
        (write_later_version, "version 99"),
        (write_directory, "cannot be used"),
        (write_dangling_link, "cannot be used"),
    ],
)
def test_what_is_no_log_is_refused_and_left_as_it_is(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "file"
    write(path)
    before = siblings(path)
    for _ in range(2):
        with pytest.raises(BrokerError, match=said):
            SQLite(path, 10, LONG)
    assert siblings(path) == before


@pytest.mark.parametrize("write", [write_half, write_damage])
def test_what_is_damaged_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    write(path)
    before = path.read_bytes()
    with (
        pytest.raises(BrokerError, match=r"damaged.* move it away"),
        closing(SQLite(path, 10, LONG)) as log,
    ):
        log.append("a", b"")
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match=r"no log can be created at .*file/log"):
        SQLite(tmp_path / "file" / "log", 10, LONG)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="Linux has a /proc")
def test_a_log_where_no_directory_can_be_made_is_refused() -> None:
    with pytest.raises(BrokerError, match=r"no log can be created at /proc/none/"):
        SQLite("/proc/none/deeper/log.db", 10, LONG)


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b%20?mode=ro#é\udcff"
    with closing(SQLite(path, 10, LONG)) as log:
        log.append("a", b"")
    assert path.exists()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)


def test_a_follower_ends_when_the_log_is_removed_and_made_anew(log: SQLite, path: Path) -> None:
    name = log.id(log.append("a", b"old"))
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b"2"))
        shutil.rmtree(path.parent)
        log.append("a", b"new")
        following.thread.join(SECONDS)
        assert not following.thread.is_alive()
        assert following.blocks == [b"2"]
        assert log.position(name) is None


KILLED = """
import os, signal
log = opened()
for i in range(3000):
    log.append("a", b"old")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_log_that_is_removed_leaves_nothing_to_the_next(path: Path) -> None:
    with script(sqlite_source(path), KILLED) as child:
        child.process.wait()
    assert Path(f"{path}-wal").stat().st_size > 0
    path.unlink()
    with closing(SQLite(str(path), 10_000, LONG)) as log:
        log.append("a", b"new")
        kept = log.read(log.first(), Topics("a"), 10)
        assert [(entry.position[0], entry.block) for entry in kept] == [(1, b"new")]


def test_the_journal_is_written_back_when_publishers_pause(log: SQLite, path: Path) -> None:
    with Following(log, log.last()) as following:
        following.reached([log.append("a", bytes(60_000)) for _ in range(100)][-1])
        # what comes after the last checkpoint stays until there is as much of it again
        eventually(lambda: sqlite_journal(path) <= module.MAX_WAITING, SECONDS)
        # where a checkpoint would make publishers wait for the disk
        assert log._connection is not None
        assert log._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_a_program_that_reads_for_long_cannot_make_the_journal_grow_without_limit(
    log: SQLite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_JOURNAL", 500_000)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    log.append("a", b"")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM entries").fetchall()
        with pytest.raises(BrokerError, match=r"locked for 0\.1 s.* journal has"):  # noqa: PT012
            for _ in range(100):
                log.append("a", bytes(16_000))
        assert sqlite_journal(path) < 600_000
        assert log.read(START, Topics("a"), 1000)
        other.execute("COMMIT")
    monkeypatch.setattr(module, "PATIENCE", SECONDS)
    log.append("a", b"")


# Forks.

CARRIED = """
log = opened()
log.append("a", b"1")
before = os.listdir("/proc/self/fd")
pid = os.fork()
if not pid:
    paths = [f"/proc/self/fd/{fd}" for fd in before]
    files = [os.readlink(path) for path in paths if os.path.exists(path)]
    assert not any("log.db" in file for file in files), files
    log.append("a", b"2")
    log.close()
    os._exit(0)
log.append("a", b"3")
assert os.waitpid(pid, 0)[1] == 0
said(*sorted(entry.block.decode() for entry in log.read((0, 0), Topics("a"), 10)))
log.close()
"""


def test_no_connection_is_carried_over_a_fork(path: Path) -> None:
    with script(sqlite_source(path), CARRIED) as child:
        assert child.said() == "1 2 3"
        child.ends()


# gevent's own waitpid misses a child that ends at once, now and then.
WAITED_FOR = """
import sqlite3, gevent
from gevent.monkey import get_original
waitpid = get_original("os", "waitpid")
import vento_wsgi.broker.backends.sqlite.event_log as module
module.MAX_WAITING = 0
log = opened()
log.append("a", b"")
other = sqlite3.connect(log._path, isolation_level=None)
other.execute("BEGIN")
other.execute("SELECT count(*) FROM entries").fetchall()  # no checkpoint can end now
for _ in range(module.CHECK_EVERY):
    log.append("a", b"")
beats = 0
def beat():
    global beats
    while True:
        gevent.sleep(0)
        beats += 1
gevent.spawn(beat)
while log._checkpoints._connection is None:
    gevent.sleep(0.001)
before = beats
if {action!r} == "close":
    log.close()
else:
    pid = os.fork()
    if not pid:
        files = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
        wals = [file for file in files if os.path.exists(file) and "-wal" in os.readlink(file)]
        assert len(wals) == 1, wals  # that of `other`
        os._exit(0)
    assert log._checkpoints._connection is None
    assert waitpid(pid, 0)[1] == 0
    other.execute("COMMIT")
    log.append("a", b"")
    log.close()
said(beats - before)
other.close()
"""


@pytest.mark.parametrize("action", ["fork", "close"])
def test_the_loop_runs_on_while_a_checkpoint_is_waited_for(path: Path, action: str) -> None:
    with script(sqlite_source(path), WAITED_FOR.format(action=action), patched=True) as child:
        assert int(child.said()) > 0
        child.ends()


PATIENT = """
import gevent
from gevent.monkey import get_original
log = opened()
lock = log._checkpoints._busy
lock.acquire()  # as if a checkpoint waited for the disk
gevent.spawn_later(0.05, lock.release)
try:
    with gevent.Timeout(0.01):
        pid = os.fork()
except gevent.Timeout:
    said("timeout")
    pid = 0
else:
    if not pid:
        os._exit(0)
    assert not lock.locked()  # it was waited for all the same, and is free again
    assert get_original("os", "waitpid")(pid, 0)[1] == 0
    said("forked")
log.close()
"""


def test_a_fork_waits_for_a_checkpoint_even_if_its_greenlet_is_out_of_time(path: Path) -> None:
    with script(sqlite_source(path), PATIENT, patched=True) as child:
        assert child.said() == "forked"
        child.ends()


def test_a_connection_of_another_process_is_neither_used_nor_closed(log: SQLite) -> None:
    log.append("a", b"")
    inherited, log._pid = log._connection, 1  # as after a fork that nobody was told of
    assert inherited is not None
    log.append("a", b"")
    assert log._connection is not inherited
    assert module._inherited.pop() is inherited
    assert inherited.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    inherited.close()


# Wake-ups.


def test_what_was_not_told_is_found(log: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b"1"))
        monkeypatch.setattr(Wakeups, "send", lambda _: None)
        following.reached(log.append("a", b"2"))


def test_a_follower_that_was_killed_is_cleared_away(log: SQLite, path: Path) -> None:
    code = "log = opened()\nfor entries in log.follow((0, 0)): said('followed')"
    sockets = Path(f"{path}-wake")
    log.append("a", b"")
    with script(sqlite_source(path), code) as child:
        assert child.said() == "followed"
        log.append("a", b"")
        assert child.said() == "followed"
        assert len(list(sockets.iterdir())) == 1
    assert len(list(sockets.iterdir())) == 1
    log.append("a", b"")
    assert list(sockets.iterdir()) == []


def test_a_socket_that_was_tidied_away_is_made_again(log: SQLite, path: Path) -> None:
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b""))
        shutil.rmtree(f"{path}-wake")
        following.reached(log.append("a", b""))
        eventually(lambda: Path(f"{path}-wake").exists())


def test_a_follower_that_does_not_listen_delays_nobody(log: SQLite, path: Path) -> None:
    Path(f"{path}-wake").mkdir()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as stuck:
        stuck.bind(f"{path}-wake/stuck")
        with Following(log, log.last()) as following:
            for _ in range(600):
                last = log.append("a", b"")
            following.reached(last)
            assert len(following.entries) == 600


def test_a_path_too_long_for_a_socket_is_reached_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 10 * SECONDS)  # it has to be told
    path = tmp_path / ("d" * MAX_PATH) / ("f" * MAX_PATH)
    log = SQLite(path, 10, LONG)
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b""))
        [made] = Path(f"{path}-wake").iterdir()
        assert stat.S_ISSOCK(made.stat().st_mode)
        time.sleep(0.05)  # it waits again
        following.reached(log.append("a", b""))
    assert list(Path(f"{path}-wake").iterdir()) == []


def test_where_no_socket_can_be_it_looks_more_often(
    log: SQLite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 10 * SECONDS)
    Path(f"{path}-wake").touch()
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b""))
        following.reached(log.append("a", b""))


# Locks.


def test_a_publisher_waits_while_another_program_writes(log: SQLite, path: Path) -> None:
    log.append("a", b"1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        publishing = threading.Thread(target=log.append, args=("a", b"2"))
        publishing.start()
        assert [entry.block for entry in log.read(START, Topics("a"), 10)] == [b"1"]
        time.sleep(0.05)
        assert publishing.is_alive()
        other.execute("ROLLBACK")
        publishing.join(SECONDS)
    assert [entry.block for entry in log.read(START, Topics("a"), 10)] == [b"1", b"2"]


def test_a_publisher_gives_up_when_it_is_locked_for_too_long(
    log: SQLite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerError, match=r"locked for 0\.1 s"):
            log.append("a", b"")
    assert log.append("a", b"")[0] == 1


LOCKED = """
import sqlite3, gevent
log = opened()
log.append("a", b"")
other = sqlite3.connect(log._path, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
publishing = gevent.spawn(log.append, "a", b"")
for _ in range(100):
    gevent.sleep(0.001)
assert not publishing.dead
other.execute("ROLLBACK")
other.close()
said(publishing.get(timeout=30)[0])
log.close()
"""


def test_a_publisher_that_waits_lets_the_other_greenlets_run(path: Path) -> None:
    with script(sqlite_source(path), LOCKED, patched=True) as child:
        assert child.said() == "2"
        child.ends()


def test_a_follower_goes_on_when_the_log_can_be_read_again(
    log: SQLite, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "POLL", 0.02)
    away = path.with_name("away")
    with Following(log, log.last()) as following:
        following.reached(log.append("a", b"1"))
        path.rename(away)
        path.mkdir()
        eventually(lambda: "is tried again" in caplog.text)
        path.rmdir()
        away.rename(path)
        following.reached(log.append("a", b"2"))
        assert following.blocks == [b"1", b"2"]
    assert caplog.text.count("is tried again") == 1
