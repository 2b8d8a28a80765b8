"""``vento-wsgi top``: what the streams of a running server do, from its workers' sockets."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..exceptions import NotExamined
from .screen import clean, screen
from .status import folder, is_private, sweep

__all__ = ["add"]

PATIENCE = 3.0
"""Seconds for a worker to answer: one that does not is kept from its loop by something."""

LONGEST = 16 * 1024 * 1024
"""Bytes of an answer: many times what ROWS streams take."""

REFRESH = 1.0
"""Seconds between two looks."""

ALTERNATE, NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR = "\x1b[H", "\x1b[J"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser(
        "top",
        help="watch the streams of a running server",
        description="Shows the streams of a server with StreamWorkers that this user runs on "
        "this machine. q ends it.",
    )
    parser.set_defaults(command=_top)
    parser.add_argument(
        "server",
        nargs="?",
        metavar="PID|ADDRESS",
        help="which server, if there are several: gunicorn's pid, or where it listens",
    )
    parser.add_argument("--once", action="store_true", help="show it once, for scripts")
    parser.add_argument("--json", action="store_true", help="once, for programs")


def _top(options: argparse.Namespace) -> int:
    try:
        if options.json:
            sys.stdout.write(json.dumps(_look(options.server), indent=2) + "\n")
        elif options.once or not sys.stdout.isatty():
            before = _look(options.server)
            time.sleep(REFRESH)
            _write(screen(_look(options.server), before, 200, 10**6))
        else:
            _watch(options.server)
    except NotExamined as error:
        _write(f"vento-wsgi top: {error}\n", sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _watch(server: str | None) -> None:
    before = _look(server)
    with _screen() as key:
        while True:
            now = _look(server)
            columns, rows = shutil.get_terminal_size()  # 0 of a terminal without a size, on 3.10
            lines = screen(now, before, columns or 80, (rows or 24) - 1)
            _write(HOME + lines.replace("\n", "\x1b[K\n") + CLEAR)
            before = now
            if key(REFRESH) == "q":
                return


@contextmanager
def _screen() -> Iterator[Any]:
    """A screen of its own, and a function that waits for a key; as it was, afterwards."""
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
        _write(ALTERNATE)
        yield key
    finally:
        _write(NORMAL)
        if kept is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, kept)


def _write(text: str, to: Any = None) -> None:
    to = to or sys.stdout
    encoding = to.encoding or "ascii"
    to.write(text.encode(encoding, "replace").decode(encoding))
    to.flush()


def _look(server: str | None) -> dict[str, Any]:
    """What the workers of one server say now. Raises NotExamined."""
    workers = [worker for worker in _workers() if _is_meant(worker, server)]
    masters = {worker["master"]: worker for worker in workers}
    if not workers:
        which = f" is {server!r}" if server else " runs"
        raise NotExamined(
            f"no server with StreamWorkers{which}, of this user and with the same "
            "$XDG_RUNTIME_DIR and $TMPDIR"
        )
    if len(masters) > 1:
        listed = "\n".join(f"  {_called(worker)}" for worker in masters.values())
        raise NotExamined(f"several servers run: say which, by pid or address\n{listed}")
    (master,) = masters
    first = masters[master]
    return {
        "master": master,
        "name": first.get("name", ""),
        "listening": first.get("listening", []),
        "at": time.monotonic(),
        "workers": sorted(workers, key=lambda worker: int(worker["worker"])),
    }


def _called(worker: dict[str, Any]) -> str:
    listening = ", ".join(map(str, worker.get("listening", [])))
    return clean(f"{worker['master']}  {worker.get('name', '?')}  {listening}")


def _is_meant(worker: dict[str, Any], server: str | None) -> bool:
    if server is None:
        return True
    wanted = server.rpartition("://")[2].rstrip("/").replace("localhost", "127.0.0.1")
    places = worker.get("listening", [])
    return wanted in (str(worker["master"]), str(worker["worker"])) or any(
        wanted in (place, place.replace("0.0.0.0", "127.0.0.1"), place[place.rfind(":") :])
        for place in places
    )


def _workers() -> Iterator[dict[str, Any]]:
    if is_private(folder()):
        sweep(folder())
    for place in _folders():
        for path in sorted(place.glob("*.sock")):
            worker = _ask(path)
            if worker is not None:
                yield worker


def _folders() -> list[Path]:
    """This user's; and all of them for root, who sees every process."""
    places = [folder()]
    root = os.geteuid() == 0
    if root:
        places += Path(tempfile.gettempdir()).glob("vento-wsgi-[0-9]*")
        places += Path("/run/user").glob("*/vento-wsgi")
    return [place for place in dict.fromkeys(places) if is_private(place, of_anybody=root)]


def _ask(path: Path) -> dict[str, Any] | None:
    """What a worker says; if it says nothing, no more than its name; None if it is gone."""
    master, _, worker = path.stem.partition("-")
    if not (master.isdigit() and worker.isdigit()):
        return None
    said = b""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(PATIENCE)
        try:
            asking.connect(str(path))
            while len(said) < LONGEST and (data := asking.recv(1 << 16)):
                said += data
        except (TimeoutError, BlockingIOError):
            return {"master": int(master), "worker": int(worker), "blocked": True}
        except OSError:
            return None
    with suppress(ValueError):
        told = json.loads(said)
        if isinstance(told, dict):
            return {**told, "master": int(master), "worker": int(worker)}
    return None
