"""Server: a contender that runs, alone on its core, and the CPU time and memory that it takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .contenders import Contender, Place
from .peers import Peers
from .redis import redis

__all__ = ["Server", "running"]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 5.0
QUIET_SECONDS, STARTED = 0.1, 0.05
"""It has started when it takes less than this part of its core for so long."""

SETTLE_SECONDS = 0.05
"""After the last byte has come, what a server still does for it is over by then."""


class Server:
    """A server that answers. pids: of the processes that serve. rest: of those that watch them."""

    def __init__(self, port: int, pids: list[int], rest: list[int]) -> None:
        self.port = port
        self._pids = pids
        self._rest = rest

    def cpu_time(self) -> float:
        """Seconds of CPU time, in nanosecond steps, of all threads, also of those that ended.

        Raises OSError if a process is gone.
        """
        # clock_getcpuclockid(3), as the C library has it; /proc/PID/schedstat is one thread
        return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in self._pids) / 1e9

    def memory(self) -> int:
        """Bytes of all its processes, each page once. Raises OSError if a process is gone."""
        # proc(5): the proportional set size, in kB
        return sum(
            int(line.split()[1]) * 1024
            for pid in (*self._pids, *self._rest)
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Pss:")
        )

    def settled_cpu_time(self) -> float:
        """The same when all that was asked has been answered."""
        time.sleep(SETTLE_SECONDS)
        return self.cpu_time()


@contextmanager
def running(
    contender: Contender, peers: Peers, folder: Path, file: Path, core: int
) -> Iterator[Server]:
    """Run a contender on `core` while the block runs. Raises RuntimeError if it will not."""
    log = folder / f"{contender.name}.log"
    with ExitStack() as stack:
        fresh = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        place = Place(_free_port(), fresh, file)
        redis_port = _free_port()
        if contender.needs_redis:
            stack.enter_context(redis(peers, redis_port, fresh))
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            contender.command(peers, place),
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                "NODE_ENV": "production",
                "BENCH_PORT": str(place.port),
                "BENCH_FILE": str(file),
                "BENCH_BROKER": contender.broker.format(folder=fresh, redis=redis_port),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        stack.callback(_stop, process)
        _await_answer(process, place.port, log)
        yield _started(process.pid, place.port, contender.workers)


def _started(pid: int, port: int, workers: int) -> Server:
    """The server, when all that serve are there and have started: when they do nothing more."""
    deadline = time.monotonic() + START_SECONDS
    while len(children := _children(pid)) < workers and time.monotonic() < deadline:
        time.sleep(0.02)
    if workers and len(children) != workers:
        raise RuntimeError(f"it has {len(children)} processes that may serve, not {workers}")
    server = Server(port, children, [pid]) if workers else Server(port, [pid], children)
    before, now = 0.0, server.cpu_time()
    while now - before > STARTED * QUIET_SECONDS and time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        before, now = now, server.cpu_time()
    return server


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


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what is left of the session that it was given."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
