"""Event logs for the tests: a Redis server, followers, and other processes.

    with script(log, "log.append('a', b'1'); said('done')") as child:
        assert child.said() == "done"

Another process gets a log as source text, such as ``SQLite('/tmp/log', 100, 60)``.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.closing import Closing
from support.servers import ROOT, eventually
from vento_wsgi.broker.backends.event_log import Entry, EventLog, Position

LONG = 60.0  # seconds: for a log whose age does not matter
SECONDS = 30.0  # until another process must have done its part, on a busy machine


def sqlite_source(path: Path) -> str:
    """The source text of a log in SQLite."""
    return f"SQLite({str(path)!r}, 10_000, 60)"


def sqlite_journal(path: Path) -> int:
    """Bytes that wait in the journal of a log in SQLite."""
    try:
        return Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


class RedisServer:
    """A redis-server on a Unix socket. It writes each command to disk before it answers."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vento-redis-"))
        self.socket = self.directory / "socket"
        self.address = f"unix://{self.socket}"
        self.url = f"{self.address}?name=vento"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = shutil.which("redis-server")
        if command is None:
            pytest.fail("the tests need redis-server: make packages")
        with (self.directory / "log").open("ab") as log:
            where = ("--port", "0", "--unixsocket", self.socket, "--dir", self.directory)
            keeps = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
            self.process = subprocess.Popen(
                [command, *where, *keeps, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, SECONDS, (self.directory / "log").read_text)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def client(self) -> "redis.Redis":
        """For commands that an event log does not have."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), retry=once)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)


class Following(Closing):
    """A thread that follows a log."""

    def __init__(self, log: EventLog, after: Position) -> None:
        self.entries: list[Entry] = []
        self.batches: list[int] = []
        self.errors: list[BaseException] = []
        self._log = log
        self._after = after
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for entries in self._log.follow(self._after):
                self.batches.append(len(entries))
                self.entries += entries
        except BaseException as error:
            self.errors.append(error)

    @property
    def blocks(self) -> list[bytes]:
        return [entry.block for entry in self.entries]

    def reached(self, position: Position) -> None:
        """Wait until the entry at `position` has been given."""
        eventually(
            lambda: bool(self.entries) and self.entries[-1].position >= position,
            SECONDS,
            lambda: f"at {self.entries[-1:]} of {position}; {self.errors}",
        )

    def close(self) -> None:
        self._log.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        for failure in self.errors:
            raise failure


PRELUDE = """
import os, sys, threading, time
from vento_wsgi.broker.backends.memory import Memory
from vento_wsgi.broker.backends.sqlite.event_log import SQLite
from vento_wsgi.broker.backends.event_log import Topics
if "Redis" in sys.argv[1]:
    from vento_wsgi.broker.backends.redis.event_log import Redis
def said(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def opened():
    return eval(sys.argv[1])
"""
PATCHED = "from gevent import monkey; monkey.patch_all()\n"


class Child:
    """A process that runs a script, and the lines that it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def said(self) -> str:
        """The next line that it prints."""
        try:
            return self._lines.get(timeout=SECONDS)
        except queue.Empty:
            pytest.fail(f"it says nothing; it ended with {self.process.poll()}")

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ends(self) -> None:
        """Wait until it ends, and assert that it succeeds."""
        assert self.process.wait(SECONDS) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def script(spec: str, code: str, *, patched: bool = False) -> Iterator[Child]:
    """Run `code` in a process of its own, where ``opened()`` is the log; warnings are errors."""
    strict = ("-X", "dev", "-W", "error")
    process = subprocess.Popen(
        [sys.executable, *strict, "-c", (PATCHED if patched else "") + PRELUDE + code, spec],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = Child(process)
    try:
        yield child
    finally:
        child.close()


def held() -> set[str]:
    """The files and sockets that this process has open."""
    return {f"{fd}:{_target(fd)}" for fd in os.listdir("/proc/self/fd") if _target(fd)}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # that of the listing itself
