"""The machine: which core is whose, and whether others were at work on it."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["BUSY", "Waiting", "cores", "description", "most_connections", "settle"]

BUSY = 0.05
"""On an idle machine the client waits for its core for a hundredth of the time or less."""

DESCRIPTORS = 1 << 18
"""Of a process: for 100,000 connections, and for servers that have two for each."""

OTHER_DESCRIPTORS = 200
CONNECTION_BYTES = 16 * 1024
"""Of a connection: both ends in the kernel, the client's part and a thrifty server's."""


def cores() -> tuple[int, int]:
    """The core of the server and that of the client; one and the same where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]


def settle(core: int) -> None:
    """Keep this process on `core`, and have as many descriptors as may be; so will servers."""
    os.sched_setaffinity(0, {core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for most in (max(hard, DESCRIPTORS), hard):
        with suppress(OSError, ValueError):  # only the privileged raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return


def most_connections() -> int:
    """How many connections this process and one server may have, by descriptors and memory."""
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
    """How long this process, which is to be alone on its core, waits for it all the same."""

    def __init__(self) -> None:
        self._before = self._times()

    def part(self) -> float:
        """Of the time in which it wanted to run, since this was made."""
        ran, waited = (now - before for now, before in zip(self._times(), self._before))
        return waited / (ran + waited)

    @staticmethod
    def _times() -> tuple[int, int]:
        # proc(5): nanoseconds on the core, nanoseconds on its run queue, time slices
        ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
        return int(ran), int(waited)
