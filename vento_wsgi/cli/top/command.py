"""``vento-wsgi top``: show the streams of a running server, asked of its workers' sockets.

Each worker listens on a Unix socket in a folder of its user; see vento_wsgi.server.status. Root
sees the workers of all users, so everything in a user's folder counts as hostile: the folder must
belong to the user in its name, and so must the process at the other end of the socket.

All workers are asked at once, with one deadline. Only values of the expected type and size are
kept from their replies. So a worker that does not reply, or sends nonsense, costs one line of the
output.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import select
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...exceptions import NotExamined
from ...server.status import ROWS, folder, is_private, peer_of, shared, sweep
from ..terminal import safe, write
from .screen import screen

__all__ = ["add"]

PATIENCE = 3.0
"""Seconds for all workers to reply; one that does not has a blocked event loop."""

LONGEST = 2 * 1024 * 1024
"""Bytes of one reply, at most: ROWS streams with the longest texts take less."""

MOST = 16 * LONGEST
"""Bytes of all replies from one folder, at most: enough for 100 workers with ROWS usual streams."""

WORKERS = 256
"""Sockets of one folder that are asked, at most: a process usually has 1,024 descriptors."""

ENTRIES = 4096
"""Names of one folder that are read, at most: its user decides how many there are."""

REFRESH = 1.0
"""Seconds between two requests to the workers."""

TEXT = 256
"""Characters of a text in a reply that are kept."""

_NAME = re.compile(r"([0-9]{1,10})-([0-9]{1,10})\.sock", re.ASCII)

_ROW = {
    **dict.fromkeys(("key", "route", "client", "forwarded", "state"), ""),
    **dict.fromkeys(("age", "still", "bytes", "chunks", "backlog", "events"), 0),
}
_ENDING = {"route": "", "reason": "", "bytes": 0, "seconds": 0, "ago": 0}
_WORKER: dict[str, Any] = {
    "name": "",
    "listening": [""],
    "draining": False,
    "streams": 0,
    "bytes": 0,
    "rows": [_ROW],
    "ended": [_ENDING],
}
"""The shape of a reply, with one example value of each type."""

ALTERNATE, NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR = "\x1b[H", "\x1b[J"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "top",
        help="watch the streams of a running server",
        description="Shows the streams of a server with StreamWorkers that this user runs on "
        "this machine. Press q to quit.",
    )
    parser.set_defaults(command=_top)
    parser.add_argument(
        "server",
        nargs="?",
        metavar="PID|ADDRESS",
        help="which server, if there are several: gunicorn's pid, or where it listens",
    )
    parser.add_argument("--once", action="store_true", help="print the table once, for scripts")
    parser.add_argument("--json", action="store_true", help="print JSON once, for programs")


def _top(options: argparse.Namespace) -> int:
    try:
        if options.json:
            sys.stdout.write(json.dumps(_look(options.server), indent=2) + "\n")
        elif options.once or not sys.stdout.isatty():
            before = _look(options.server)
            time.sleep(REFRESH)
            write(screen(_look(str(before["master"])), before, 200, 10**6))
        else:
            _watch(options.server)
    except NotExamined as error:
        write(f"vento-wsgi top: {error}\n", sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _watch(server: str | None) -> None:
    before = _look(server)
    with _screen() as key:
        while True:
            now = _look(str(before["master"]))  # by pid: more servers may have started
            columns, rows = shutil.get_terminal_size()  # Python 3.10 returns 0 if size is unknown
            lines = screen(now, before, columns or 80, (rows or 24) - 1)
            write(HOME + lines.replace("\n", "\x1b[K\n") + CLEAR)
            before = now
            if key(REFRESH) == "q":
                return


@contextmanager
def _screen() -> Iterator[Any]:
    """Use the terminal's alternate screen; yields a function that waits for a key."""
    import termios
    import tty

    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else -1
    kept = termios.tcgetattr(keyboard) if keyboard >= 0 else None

    def key(seconds: float) -> str:
        if keyboard < 0:
            time.sleep(seconds)
        elif select.select([keyboard], [], [], seconds)[0]:
            return os.read(keyboard, 1).decode("latin-1")
        return ""

    try:
        if kept is not None:
            tty.setcbreak(keyboard)
        write(ALTERNATE)
        yield key
    finally:
        write(NORMAL)
        if kept is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, kept)


def _look(server: str | None) -> dict[str, Any]:
    """The current replies of the workers of one server. Raises NotExamined."""
    servers: dict[int, list[dict[str, Any]]] = {}
    for worker in _workers():
        servers.setdefault(worker["master"], []).append(worker)
    masters = [master for master in servers if _is_meant(servers[master], server)]
    if server is None:
        masters = _likeliest(masters, servers)
    if not masters:
        which = f" is {server!r}" if server else " runs"
        raise NotExamined(
            f"no server with StreamWorkers{which} for this user and with the same "
            "$XDG_RUNTIME_DIR and $TMPDIR"
        )
    if len(masters) > 1:
        listed = "\n".join(f"  {_called(servers[master])}" for master in masters)
        raise NotExamined(f"several servers run: choose one by its pid or address\n{listed}")
    workers = servers[masters[0]]
    first = _informed(workers)
    return {
        "master": masters[0],
        "name": first.get("name", ""),
        "listening": first.get("listening", []),
        "at": time.monotonic(),
        "workers": sorted(workers, key=lambda worker: int(worker["worker"])),
    }


def _likeliest(masters: list[int], servers: dict[int, list[dict[str, Any]]]) -> list[int]:
    """The servers to choose from: root's own if there are any, else those that reply, else all."""

    def own(master: int) -> bool:
        return bool(servers[master][0]["uid"] == os.geteuid())

    def answers(master: int) -> bool:
        return bool(_informed(servers[master]))

    for wanted in (own, answers):
        if found := [master for master in masters if wanted(master)]:
            return found
    return masters


def _informed(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """The first worker that replied; {} if none did."""
    return next((worker for worker in workers if "name" in worker), {})


def _called(workers: list[dict[str, Any]]) -> str:
    first = _informed(workers)
    listening = ", ".join(first.get("listening", []))
    return safe(f"{workers[0]['master']}  {first.get('name', '?')}  {listening}")


def _is_meant(workers: list[dict[str, Any]], server: str | None) -> bool:
    if server is None:
        return True
    wanted = server.rpartition("://")[2].rstrip("/").replace("localhost", "127.0.0.1")
    places = _informed(workers).get("listening", [])
    pids = [workers[0]["master"], *(worker["worker"] for worker in workers)]
    return wanted in map(str, pids) or any(
        wanted in (place, place.replace("0.0.0.0", "127.0.0.1"), place[place.rfind(":") :])
        for place in places
    )


class _Asked(NamedTuple):
    """A worker that has been asked. said: the reply so far. folder: the number of its folder."""

    uid: int
    master: int
    worker: int
    folder: int
    said: bytearray


def _workers() -> list[dict[str, Any]]:
    """The reply of each worker; of a worker without one, only its name and why."""
    if is_private(folder()):
        sweep(folder())
    until = time.monotonic() + PATIENCE
    silent: list[_Asked] = []
    answered: list[_Asked] = []
    with selectors.DefaultSelector() as selector:
        try:
            for number, (uid, place) in enumerate(_folders()):
                silent += _ask(selector, number, uid, place)
            answered = list(_answers(selector, until))
        finally:
            left = list(selector.get_map().values())
            silent += [key.data for key in left]
            for key in left:
                key.fileobj.close()  # type: ignore[union-attr]
    return [
        *({**_named(asked), "blocked": True} for asked in silent),
        *({**_named(asked), **_understood(asked.said)} for asked in answered if asked.said),
    ]


def _named(asked: _Asked) -> dict[str, Any]:
    return {"master": asked.master, "worker": asked.worker, "uid": asked.uid}


def _folders() -> list[tuple[int, Path]]:
    """The folders to look in, each with its user: this user's, and for root those of all users."""
    uid = os.geteuid()
    places = [(uid, folder())]
    if uid == 0:
        for other in sorted(_users()):
            places += [(other, shared(other)), (other, Path(f"/run/user/{other}/vento-wsgi"))]
    return [(uid, place) for uid, place in dict.fromkeys(places) if is_private(place, uid)]


def _users() -> set[int]:
    """The users who run a process. Names in /tmp are no source: anybody can make any number."""
    users = set()
    with suppress(OSError), os.scandir("/proc") as processes:  # macOS has no /proc
        for process in processes:
            if process.name.isdigit():
                with suppress(OSError):  # the process has ended
                    users.add(process.stat().st_uid)
    return users


def _ask(selector: selectors.BaseSelector, number: int, uid: int, place: Path) -> list[_Asked]:
    """Connect to the workers of a folder; returns those that accept no connection now."""
    silent, left = [], WORKERS
    with suppress(OSError), os.scandir(place) as entries:
        for entry in islice(entries, ENTRIES):
            if left and (name := _NAME.fullmatch(entry.name)):
                asked = _Asked(uid, int(name[1]), int(name[2]), number, bytearray())
                try:
                    sock = _connected(entry.path, asked)
                    selector.register(sock, selectors.EVENT_READ, asked)
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EMFILE, errno.ENFILE):
                        continue  # the worker has ended, or the file is no socket of a worker
                    silent.append(asked)  # its backlog is full, or we have no descriptor left
                left -= 1
    return silent


def _connected(path: str, asked: _Asked) -> socket.socket:
    """A connection to the worker that the file name names. Raises OSError.

    The file may be a link to any socket, so the kernel is asked which process of which user is at
    the other end. In another user's folder the name must be true as well: it could claim to be the
    server of a third user.
    """
    own = asked.uid == os.geteuid()
    if not own and not _is_worker(asked):
        raise PermissionError(f"{path} does not name a worker of its user")
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(path)
        pid, uid = peer_of(sock)
        if uid != asked.uid or not (own or pid == asked.worker):
            raise PermissionError(f"{path} is not the socket of the worker in its name")
    except BaseException:
        sock.close()
        raise
    return sock


def _is_worker(asked: _Asked) -> bool:
    """Whether the named process exists, with the named user and parent."""
    process = Path(f"/proc/{asked.worker}")
    stat = process.joinpath("stat").read_bytes()  # proc(5): pid (name) state parent
    parent = int(stat.rpartition(b")")[2].split()[1])
    return (process.stat().st_uid, parent) == (asked.uid, asked.master)


def _answers(selector: selectors.BaseSelector, until: float) -> Iterator[_Asked]:
    """The workers whose replies are complete by `until`; the others stay in the selector."""
    left: dict[int, int] = {}
    while selector.get_map() and (patience := until - time.monotonic()) > 0:
        for key, _ in selector.select(patience):
            asked, sock = key.data, key.fileobj
            assert isinstance(sock, socket.socket)
            ended = True
            with suppress(OSError):
                data = sock.recv(1 << 16)
                asked.said.extend(data)
                left[asked.folder] = left.get(asked.folder, MOST) - len(data)
                ended = not data or len(asked.said) > LONGEST or left[asked.folder] < 0
            if ended:
                selector.unregister(sock)
                sock.close()
                yield asked


def _understood(said: bytearray) -> dict[str, Any]:
    """The content of a reply; {"unclear": True} if it has not the expected shape."""
    if len(said) <= LONGEST:
        with suppress(ValueError, RecursionError):
            return dict(_shaped(json.loads(said), _WORKER))
    return {"unclear": True}


def _shaped(told: Any, example: Any) -> Any:
    """`told` reduced to the keys of `example`. Raises ValueError unless its types are those."""
    if isinstance(example, dict):
        if not isinstance(told, dict):
            raise ValueError
        return {name: _shaped(told.get(name), one) for name, one in example.items()}
    if isinstance(example, list):
        if not isinstance(told, list):
            raise ValueError
        return [_shaped(one, example[0]) for one in told[:ROWS]]
    if isinstance(example, str):
        if not isinstance(told, str):
            raise ValueError
        return told[:TEXT].encode(errors="replace").decode()  # JSON may hold a lone surrogate
    if isinstance(example, bool):
        if not isinstance(told, bool):
            raise ValueError
        return told
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not -1e18 < told < 1e18:
        raise ValueError
    return told
