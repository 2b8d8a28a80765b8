"""Sockets of a user who wishes ``vento-wsgi top`` ill, in the folder of its first argument.

Each of these "workers" is a process of its own, with the name that its process should have, so
that nothing but what it says or leaves unsaid gives it away. The second argument is the master
of somebody else's server, the third the
folder of its sockets. Prints a line when all of them listen; ends with its input.
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


def listen(folder: Path, master: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / f"{master}-{os.getpid()}.sock"))
    listening.listen(8)
    return listening


def run(folder: Path, master: int, answer: Callable[[socket.socket], None] | None) -> None:
    """In a process of its own: answer everyone so, or with None take no connection at all."""
    ready, told = os.pipe()
    if os.fork():
        os.close(told)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        return
    listening = listen(folder, master)
    if answer is None:
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for one in waiting:
            one.setblocking(False)
            try:
                one.connect(listening.getsockname())
            except BlockingIOError:
                break
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
    os.mkfifo(folder / "1-2.sock")
    (folder / "1-3.sock").mkdir()
    (folder / "1-4.sock").symlink_to("/dev/zero")
    (folder / "1-5.sock").touch()
    (folder / "\u00b2-\u00b2.sock").touch()
    (folder / f"{'9' * 200}-1.sock").touch()
    for other in Path(sys.argv[3]).glob("*.sock"):
        (folder / other.name).symlink_to(other)
    for number in range(3000):
        (folder / f"7-{number}.sock").touch()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


main()
