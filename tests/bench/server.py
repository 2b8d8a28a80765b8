"""Server: a contender that runs, alone on its core, and the CPU time that it takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .contenders import Contender, Place
from .peers import Peers

__all__ = ["Server", "running"]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 5.0
SETTLE_SECONDS = 0.05
"""After the last byte has come, what a server still does for it is over by then."""


class Server:
    """A server that answers. pid: of the process that serves."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def cpu_time(self) -> float:
        """Seconds of CPU time, in nanosecond steps, of all threads, also of those that ended.

        Raises OSError if the process is gone.
        """
        # clock_getcpuclockid(3), as the C library has it; /proc/PID/schedstat is one thread
        return time.clock_gettime_ns(~self.pid << 3 | 2) / 1e9

    def settled_cpu_time(self) -> float:
        """The same when all that was asked has been answered."""
        time.sleep(SETTLE_SECONDS)
        return self.cpu_time()


@contextmanager
def running(
    contender: Contender, peers: Peers, folder: Path, file: Path, core: int
) -> Iterator[Server]:
    """Run a contender on `core` while the block runs. Raises RuntimeError if it will not."""
    place = Place(_free_port(), folder, file)
    log = folder / f"{contender.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            contender.command(peers, place),
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                "NODE_ENV": "production",
                "BENCH_PORT": str(place.port),
                "BENCH_FILE": str(file),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        _await_answer(process, place.port, log)
        yield Server(place.port, _child(process.pid) if contender.forks else process.pid)
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", port), START_SECONDS) as sock,
        ):
            sock.sendall(b"GET /two HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            if sock.recv(1024):
                return
        time.sleep(0.02)
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if "Error:" in line] or lines or ["it says nothing"]
    raise RuntimeError(f"it does not answer: {errors[-1]}")


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if len(children) != 1:
        raise RuntimeError(f"it has {len(children)} processes that may serve, not one")
    return int(children[0])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what is left of the session that it was given."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
