"""The machine: the cores for the server and the client, and whether other programs were busy."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["BUSY", "Waiting", "cores", "description", "most_connections", "settle"]

BUSY = 0.05
"""On an idle machine the client waits for its core for at most 1% of the time."""

DESCRIPTORS = 1 << 18
"""For a process: 100,000 connections, with room for servers that use two for each."""

OTHER_DESCRIPTORS = 200
CONNECTION_BYTES = 16 * 1024
"""Memory of a connection: both ends in the kernel, the client's state and a small server's."""


def cores() -> tuple[int, int]:
    """The server's core and the client's core. With one core they are the same."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]


def settle(core: int) -> None:
    """Pin this process to `core` and raise its limit of descriptors, also for the servers."""
    os.sched_setaffinity(0, {core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for most in (max(hard, DESCRIPTORS), hard):
        with suppress(OSError, ValueError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return


def most_connections() -> int:
    """How many connections the descriptors and the memory allow this process and one server."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(descriptors - OTHER_DESCRIPTORS, available * 1024 // 2 // CONNECTION_BYTES)


def description() -> str:
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return f"{processor}, Linux {platform.release()}, Python {platform.python_version()}"


class Waiting:
    """How long this process waits for its core, which it should have for itself."""

    def __init__(self) -> None:
        self._before = self._times()

    def part(self) -> float:
        """Waiting time as a part of the time in which the process could have run."""
        ran, waited = (now - before for now, before in zip(self._times(), self._before))
        return waited / (ran + waited)

    @staticmethod
    def _times() -> tuple[int, int]:
        # proc(5): nanoseconds on the core, nanoseconds in the run queue, time slices
        ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
        return int(ran), int(waited)
