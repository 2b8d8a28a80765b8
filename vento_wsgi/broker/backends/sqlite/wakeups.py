"""Wakeups: tell all processes of a machine that the log has a new entry.

Each listener binds a datagram socket in one directory. A publisher sends a byte to every socket in
that directory and never waits: if the queue of a socket is full, its listener already has a
wake-up. A datagram is only a hint and can be lost, so listeners also poll the log.

Only the owner can use the directory and its sockets. The address of a socket has at most 108 bytes
(unix(7)). A longer path is reached through /proc; an abstract name would be open to every user of
the machine.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ....logs import logger
from .database import make_directory

__all__ = ["Listener", "Wakeups"]

log = logger(__name__)

MAX_PATH = 100
"""Bytes of a socket's path, at most: Linux has room for 107, macOS for 103."""

UNTOLD = 0.05
"""Seconds between two polls of a listener without a socket: a delay that readers hardly notice."""


class Wakeups:
    """The sockets in `directory`, which the first listener creates."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self) -> None:
        """Wake the listeners of all processes, and remove the sockets of dead ones."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return  # there was no listener yet
        with suppress(OSError), self._reached(self._directory) as directory:
            for name in names:
                if not name.startswith("."):
                    self.tell(f"{directory}/{name}")

    def tell(self, address: str) -> None:
        try:
            self._socket.sendto(b"!", address)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(address)
        except OSError:
            pass  # the listener already has a wake-up, or is gone

    def listen(self) -> Listener:
        """A listener in this process. If no socket can be bound, it polls more often instead."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            make_directory(self._directory)
            with self._reached(self._directory) as directory:
                # in two steps: send() would remove a socket that is not yet bound completely
                bound.bind(f"{directory}/.{name}")
                os.rename(f"{directory}/.{name}", f"{directory}/{name}")
        except OSError as error:
            bound.close()
            log.warning("no wake-ups in %s: %s; polling every 50 ms", self._directory, error)
            return Listener(self, None, None)
        return Listener(self, bound, f"{self._directory}/{name}")

    @contextmanager
    def _reached(self, path: str) -> Iterator[str]:
        """A path of the directory that is short enough for the address of a socket."""
        if len(os.fsencode(path)) + 24 <= MAX_PATH:
            yield path
            return
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{directory}"
        finally:
            os.close(directory)

    def close(self) -> None:
        self._socket.close()


class Listener:
    """Waits for wake-ups. path: of its socket; None if it has none."""

    def __init__(self, wakeups: Wakeups, bound: socket.socket | None, path: str | None) -> None:
        self._wakeups = wakeups
        self._socket = bound
        self._path = path
        self._pid = os.getpid()

    def wait(self, timeout: float) -> None:
        """Wait for a wake-up, at most `timeout` seconds. Several wake-ups count as one."""
        if self._socket is None:
            time.sleep(min(timeout, UNTOLD))
            return
        with suppress(TimeoutError, BlockingIOError):
            self._socket.settimeout(timeout)
            self._socket.recv(1)
            self._socket.setblocking(False)
            while True:
                self._socket.recv(1)

    def is_there(self) -> bool:
        """Whether it can still be woken: its socket may have been deleted."""
        return self._path is None or os.path.exists(self._path)

    def wake(self) -> None:
        """Wake it, from another greenlet or thread."""
        if self._path is not None:
            directory, name = os.path.split(self._path)
            with suppress(OSError), self._wakeups._reached(directory) as reached:
                self._wakeups.tell(f"{reached}/{name}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._path is not None and self._pid == os.getpid():  # not in a fork: it is the parent's
            with suppress(OSError):
                os.unlink(self._path)
