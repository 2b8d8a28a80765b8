"""A Redis server for one contender, while that runs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .client import connect
from .peers import Peers

__all__ = ["redis"]

START_SECONDS = 10.0


@contextmanager
def redis(peers: Peers, port: int, folder: Path) -> Iterator[None]:
    """Run Redis with its default settings while the block runs.

    It runs on the client's core, and its CPU time is not counted. Raises RuntimeError if it
    does not start.
    """
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(peers.redis), "--bind", "127.0.0.1", "--port", str(port)),
                *("--dir", str(folder)),
            ],
            env=peers.redis_environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await_answer(process, port, log)
        yield
    finally:
        process.kill()
        process.wait()


def _await_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), connect(port) as sock:
            sock.sendall(b"PING\r\n")
            if sock.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["it writes nothing"]
    raise RuntimeError(f"Redis does not answer: {lines[-1]}")
