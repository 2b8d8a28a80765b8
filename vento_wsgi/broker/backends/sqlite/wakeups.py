"""Wakeups: what tells the processes of one machine that there is something new.

Each listener binds a datagram socket in one directory; who has something to tell sends a byte
to every socket that it finds there, and never waits: a socket whose queue is full has been
told already. A datagram is a hint and can be lost, so listeners look for themselves as well.

The directory is for its owner alone, and so are the sockets. The path of a socket is 108 bytes
at most (unix(7)); a longer one is reached through /proc, not by an abstract name, which
everybody on the machine could use.
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
"""Bytes of a socket's path: Linux has room for 107, macOS for 103."""

UNTOLD = 0.05
"""Seconds between looks of a listener that cannot be told: what a reader hardly notices."""


class Wakeups:
    """The sockets in `directory`, which the first listener makes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self) -> None:
        """Wake every listener, in whatever process, and clear those away that have died."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return  # nobody has listened yet
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
            pass  # it has a wake-up waiting, or is gone

    def listen(self) -> Listener:
        """A listener in this process; one that cannot be told looks more often."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            make_directory(self._directory)
            with self._reached(self._directory) as directory:
                # in two steps: while it is being bound a socket refuses, and would be cleared away
                bound.bind(f"{directory}/.{name}")
                os.rename(f"{directory}/.{name}", f"{directory}/{name}")
        except OSError as error:
            bound.close()
            log.warning("no wake-ups in %s: %s; looking every 50 ms", self._directory, error)
            return Listener(self, None, None)
        return Listener(self, bound, f"{self._directory}/{name}")

    @contextmanager
    def _reached(self, path: str) -> Iterator[str]:
        """A name of the directory that leaves room for that of a socket."""
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
    """Waits to be woken. path: where its socket is; None when it has none."""

    def __init__(self, wakeups: Wakeups, bound: socket.socket | None, path: str | None) -> None:
        self._wakeups = wakeups
        self._socket = bound
        self._path = path
        self._pid = os.getpid()

    def wait(self, timeout: float) -> None:
        """Wait to be woken, `timeout` seconds at most; wake-ups that are waiting count as one."""
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
        """Whether it can still be woken: somebody may have tidied its directory up."""
        return self._path is None or os.path.exists(self._path)

    def wake(self) -> None:
        """From another greenlet or thread."""
        if self._path is not None:
            directory, name = os.path.split(self._path)
            with suppress(OSError), self._wakeups._reached(directory) as reached:
                self._wakeups.tell(f"{reached}/{name}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._path is not None and self._pid == os.getpid():  # a fork's is still listening
            with suppress(OSError):
                os.unlink(self._path)
