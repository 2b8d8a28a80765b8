"""Status: the state of a worker's streams, for ``vento-wsgi top``.

Each worker listens on a Unix socket in a folder that only its user and root can enter. It sends
the state of its streams, as JSON, to each process of these users that connects. Streams keep no
counters for this. Their state is read on request, STEP streams at a time, and other greenlets run
in between.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
import tempfile
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..streaming.progress import queued
from ..streaming.record import Snapshot

if TYPE_CHECKING:
    from .drain import Drain

__all__ = ["ROWS", "Status", "folder", "is_private", "peer_of", "shared", "sweep"]

ROWS = 500
"""Streams of a worker that are reported one by one: those with the largest backlog, then the most
bytes sent.
"""

STEP = 500
"""Streams that are read before others can run: a millisecond or two."""

ROUTE = 200
"""Characters of a route that are sent, so that the whole reply has a bound."""

LONGEST = 70
"""Bytes of the folder's path: with a name in it, the address of a socket has at most 107."""

PATIENCE = 5.0
"""Seconds in which a client must read the reply."""


def folder() -> Path:
    """The folder of the sockets of this user's workers."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    fits = os.path.isabs(runtime) and len(os.fsencode(runtime)) <= LONGEST
    uid = os.geteuid()
    if fits and _is_folder(runtime, uid, 0o022):
        return Path(runtime, "vento-wsgi")
    return shared(uid)


def shared(uid: int) -> Path:
    """The folder of a user's sockets in the temporary directory that all users share."""
    return Path(tempfile.gettempdir(), f"vento-wsgi-{uid}")


def is_private(path: Path, uid: int | None = None) -> bool:
    """Whether `path` is a folder that only user `uid` can enter, by default this user."""
    return _is_folder(path, os.geteuid() if uid is None else uid, 0o077)


def _is_folder(path: str | Path, uid: int, closed: int) -> bool:
    """Whether `path` is a folder that belongs to `uid` and has none of the permissions `closed`."""
    try:
        found = os.lstat(path)  # not stat(): the target of a link can change at any time
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & closed


def sweep(path: Path) -> None:
    """Remove the sockets of workers that were killed."""
    for left in path.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(left))
            except ConnectionRefusedError:
                left.unlink(missing_ok=True)
            except OSError:
                pass  # the worker is busy, or has just ended


class Status:
    """The status socket of a worker. about: the constant part of its replies."""

    def __init__(self, drain: Drain, about: dict[str, Any], log: Any) -> None:
        self._drain = drain
        self._about = about
        self._log = log
        self._path: Path | None = None
        self._listening: Any = None

    def open(self) -> None:
        """Start to listen. If that fails, a warning is logged and the worker runs without."""
        import gevent

        path = folder() / f"{os.getppid()}-{os.getpid()}.sock"
        for attempt in (1, 2, 3):
            try:
                self._listening = _listening(path)
                break
            except FileNotFoundError as error:
                # a worker that stopped has just removed the empty folder
                if attempt == 3:
                    self._refuse(error)
                    return
            except OSError as error:
                self._refuse(error)
                return
        self._path = path
        gevent.spawn(self._run)

    def _refuse(self, error: OSError) -> None:
        self._log.warning("vento-wsgi top will not see this worker: %s", error)

    def close(self) -> None:
        """Stop listening; remove the socket, and the folder if it is empty."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # other workers have sockets in it
                self._path.parent.rmdir()
            self._path = None

    def _run(self) -> None:
        import gevent

        while self._listening is not None:
            try:
                client, _ = self._listening.accept()
            except OSError:
                if self._listening is None:
                    return
                gevent.sleep(1)  # the process has no descriptors left
                continue
            gevent.spawn(self._answer, client)

    def _answer(self, client: Any) -> None:
        with client:
            try:
                if peer_of(client)[1] in (0, os.geteuid()):
                    client.settimeout(PATIENCE)
                    client.sendall(json.dumps(self._told()).encode())
            except OSError:
                pass  # the client left, or was too slow
            except Exception:
                self._log.exception("the reply to vento-wsgi top failed")

    def _told(self) -> dict[str, Any]:
        import gevent

        rows: list[dict[str, Any]] = []
        streams, total = tuple(self._drain.streams), 0
        for start in range(0, len(streams), STEP):
            now = monotonic()
            for stream in streams[start : start + STEP]:
                row = _row(id(stream), stream.snapshot, now)
                total += row["bytes"]
                rows.append(row)
            if len(rows) > 2 * ROWS:
                rows = _largest(rows)
            gevent.sleep(0)
        return {
            **self._about,
            "draining": self._drain.draining,
            "streams": len(streams),
            "bytes": total,
            "rows": _largest(rows),
            "ended": self._ended(),
        }

    def _ended(self) -> list[dict[str, Any]]:
        now = monotonic()
        return [
            {
                "route": route[:ROUTE],
                "reason": str(reason or ""),
                "bytes": sent,
                "seconds": round(until - since, 3),
                "ago": round(now - until, 3),
            }
            for route, reason, sent, since, until in reversed(tuple(self._drain.ended))
        ]


def _listening(path: Path) -> Any:
    """A listening socket at `path`, in a folder that only this user can enter. Raises OSError."""
    from gevent import socket as cooperative

    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not is_private(path.parent):
        raise PermissionError(
            errno.EPERM, "other users could enter the folder, or it is theirs", str(path.parent)
        )
    sweep(path.parent)
    # Before listen() a socket refuses connections, like the socket of a killed worker, which
    # sweep() removes. So it gets a name that sweep() ignores until it listens.
    unready = path.with_suffix(".new")
    unready.unlink(missing_ok=True)  # left by a killed worker with the same pid
    listening = cooperative.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):  # macOS refuses
            os.fchmod(listening.fileno(), 0o600)  # on Linux, bind() creates the file with this mode
        listening.bind(str(unready))
        unready.chmod(0o600)
        listening.listen(8)
        unready.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening


def _largest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return nlargest(ROWS, rows, key=lambda row: (row["backlog"], row["bytes"]))


def _row(key: int, live: Snapshot, now: float) -> dict[str, Any]:
    return {
        "key": f"{key:x}-{live.since}",
        "route": live.route[:ROUTE],
        "client": _client(live.sock),
        "forwarded": live.forwarded[:80],
        "age": round(now - live.since, 3),
        "still": round(max(0.0, now - live.moved), 3),
        "bytes": live.bytes,
        "chunks": live.chunks,
        "backlog": live.backlog + _unsent(live.sock),
        "events": live.events,
        "state": live.state,
    }


def _client(sock: Any) -> str:
    try:
        peer = sock.getpeername()
    except (AttributeError, OSError):
        return ""
    if not isinstance(peer, tuple):
        return "unix"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _unsent(sock: Any) -> int:
    """Bytes that the kernel has, and the client has not acknowledged."""
    try:
        return queued(sock.fileno())
    except (AttributeError, OSError, ValueError):
        return 0


def peer_of(sock: Any) -> tuple[int, int]:
    """The pid and uid of the process at the other end of a Unix socket, from the kernel.

    Without SO_PEERCRED (macOS) it returns 0 and this user: the mode of the folder must suffice.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, os.geteuid()
    size = struct.calcsize("3i")
    told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("iII", told)
    return pid, uid
