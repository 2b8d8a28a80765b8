"""Sockets of a user who attacks ``vento-wsgi top``.

Most of these "workers" are processes with the names that their processes should have, so that
only what they say or leave unsaid gives them away. Arguments: the folder for the sockets; the
master of another user's server; the folder of that server's sockets. Prints a line when all of
them listen; ends when its input ends.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STREAM = {
    "key": "1",
    "route": "GET /\x1b]0;owned\x07\u202e\x9b31m",
    "client": "\x1b[2J",
    "forwarded": "\r\n",
    "age": 1.0,
    "still": 1.0,
    "bytes": 1,
    "chunks": 1,
    "backlog": 0,
    "events": 0,
    "state": "waiting",
}
WORKER = {
    "name": "evil\x1b[31m",
    "listening": ["127.0.0.1:1"],
    "draining": False,
    "streams": 1,
    "bytes": 1,
    "rows": [STREAM],
    "ended": [],
}


def said(**more: object) -> bytes:
    return json.dumps({**WORKER, **more}).encode()


SAYS: tuple[bytes, ...] = (
    b"null",
    b"[1, 2]",
    b"{}",
    b"\xff\xfe",
    b"[" * 1_000_000,
    b'{"rows":' * 100_000,
    b'{"streams": ' + b"9" * 5000 + b"}",
    said(rows=5),
    said(rows=[None]),
    said(rows=[{**STREAM, "age": float("nan")}]),
    said(rows=[{**STREAM, "bytes": float("inf")}]),
    said(rows=[{**STREAM, "bytes": 10**400}]),
    said(rows=[{**STREAM, "route": ["list"]}]),
    said(rows=[{**STREAM, "key": None}]),
    said(listening="text"),
    said(listening=[{}]),
    said(streams=True),
    said(name="x" * 5_000_000),
    said(ended=[{"ago": "soon"}]),
    said(rows=[STREAM] * 5000),
)


def says(data: bytes) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        client.sendall(data)
        client.close()

    return answer


def silent(client: socket.socket) -> None:
    kept.append(client)


def trickles(client: socket.socket) -> None:
    while True:
        client.sendall(b" ")
        time.sleep(0.2)


def floods(client: socket.socket) -> None:
    while True:
        client.sendall(b" " * 65536)


kept: list[socket.socket] = []


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(8)
    return listening


def fill(listening: socket.socket) -> None:
    """Connect until the backlog is full and nobody else can connect."""
    for _ in range(20):
        kept.append(socket.socket(socket.AF_UNIX))
        kept[-1].setblocking(False)
        with suppress(BlockingIOError):
            kept[-1].connect(listening.getsockname())


def run(folder: Path, master: int, answer: Callable[[socket.socket], None] | None) -> None:
    """In a process of its own: answer everyone so, or with None take no connection at all."""
    ready, told = os.pipe()
    if os.fork():
        os.close(told)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        return
    listening = listen(folder / f"{master}-{os.getpid()}.sock")
    if answer is None:
        fill(listening)
    os.write(told, b"x")
    while answer is None:
        signal.pause()
    while True:
        client, _ = listening.accept()
        with suppress(OSError):
            answer(client)


def main() -> None:
    folder, theirs = Path(sys.argv[1]), int(sys.argv[2])
    os.setpgid(0, 0)
    for answer in (None, silent, trickles, floods, *map(says, SAYS)):
        run(folder, os.getpid(), answer)
    run(folder, theirs, says(said(name="forged")))
    run(folder, theirs, None)
    for other in Path(sys.argv[3]).glob("*.sock"):
        if not (child := os.fork()):
            signal.pause()
        (folder / f"{os.getpid()}-{child}.sock").symlink_to(other)
        kept.append(listen(folder / other.name))
        fill(kept[-1])
    os.mkfifo(folder / "1-2.sock")
    (folder / "1-3.sock").mkdir()
    (folder / "1-4.sock").symlink_to("/dev/zero")
    (folder / "1-5.sock").touch()
    (folder / "\u00b2-\u00b2.sock").touch()
    (folder / f"{'9' * 200}-1.sock").touch()
    for number in range(3000):
        (folder / f"7-{number}.sock").touch()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


main()
