"""A running contender, alone on its core, and the CPU time and memory that it takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .contenders import Contender, Place
from .peers import Peers
from .redis import redis

__all__ = ["ROOT", "Server", "running"]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
QUIET_SECONDS, STARTED = 0.1, 0.05
"""A server has started when it uses less than this part of its core for so many seconds."""

SETTLE_SECONDS = 0.05
"""Time for a server to finish its work after the client has received the last byte."""


class Server:
    """A server that answers.

    pids: the processes that serve. others: the processes that only supervise them.
    python, environ: for more processes of the same application.
    """

    def __init__(
        self,
        port: int,
        pids: list[int],
        others: list[int],
        python: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.port = port
        self.python = python
        self.environ = environ
        self._pids = pids
        self._others = others

    def cpu_time(self) -> float:
        """Seconds of CPU time of all threads, including those that have ended.

        The resolution is a nanosecond. Raises OSError if a process is gone.
        """
        # The clock id of a process is computed as clock_getcpuclockid(3) does it.
        # /proc/PID/schedstat would be that of the first thread only.
        return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in self._pids) / 1e9

    def settled_cpu_time(self) -> float:
        """The CPU time after everything that was requested has been answered."""
        time.sleep(SETTLE_SECONDS)
        return self.cpu_time()

    def memory(self) -> int:
        """Bytes of all processes; shared pages count once. Raises OSError if one is gone."""
        # proc(5): the proportional set size, in kB
        return sum(
            int(line.split()[1]) * 1024
            for pid in (*self._pids, *self._others)
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Pss:")
        )

    def has_loaded(self, library: str) -> bool:
        """Whether a process that serves has loaded a shared library with this in its path."""
        return any(library in Path(f"/proc/{pid}/maps").read_text() for pid in self._pids)


@contextmanager
def running(
    contender: Contender, peers: Peers, folder: Path, file: Path, core: int
) -> Iterator[Server]:
    """Run a contender on `core` while the block runs. Raises RuntimeError if it cannot start."""
    log = folder / f"{contender.name}.log"
    with ExitStack() as stack:
        fresh = Path(stack.enter_context(TemporaryDirectory(dir=folder)))
        place = Place(_free_port(), fresh, file)
        redis_port = _free_port()
        if contender.needs_redis:
            stack.enter_context(redis(peers, redis_port, fresh))
        output = stack.enter_context(log.open("wb"))
        environ = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "NODE_ENV": "production",
            "XDG_RUNTIME_DIR": str(fresh),  # the sockets of StreamWorkers go with the folder
            "BENCH_PORT": str(place.port),
            "BENCH_FILE": str(file),
            "BENCH_BROKER": contender.broker.format(folder=fresh, redis=redis_port),
        }
        process = subprocess.Popen(
            contender.launch.command(peers, place),
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        stack.callback(_kill, process)
        _await_answer(process, place.port, log)
        children = _await_children(process.pid, contender.launch.workers)
        serving, others = [process.pid], children
        if contender.launch.workers:
            serving, others = others, serving
        server = Server(place.port, serving, others, peers.python, environ)
        _await_quiet(server)
        yield server


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
    errors = [line for line in lines if "Error:" in line] or lines or ["it writes nothing"]
    raise RuntimeError(f"it does not answer: {errors[-1]}")


def _await_children(pid: int, workers: int) -> list[int]:
    """The child processes, once all workers are there. Raises RuntimeError."""
    deadline = time.monotonic() + START_SECONDS
    while len(children := _children(pid)) < workers and time.monotonic() < deadline:
        time.sleep(0.02)
    if workers and len(children) != workers:
        raise RuntimeError(f"it has {len(children)} child processes instead of {workers}")
    return children


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _await_quiet(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    before, now = 0.0, server.cpu_time()
    while now - before > STARTED * QUIET_SECONDS and time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        before, now = now, server.cpu_time()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of the server's session: nothing of it is needed any more."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
