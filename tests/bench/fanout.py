"""Events to many subscribers: the CPU time of an event, and the memory of a waiting subscriber."""

from __future__ import annotations

import time
from contextlib import closing

from .apps import work
from .client import WrongResponse
from .figures import Ask, Figure, Sample, late
from .machine import most_connections
from .server import Server
from .subscribers import Subscribers

__all__ = ["EACH", "MANY", "MANY_COUNT", "fanout", "idle", "many"]

EACH = Figure("bytes_each", "memory of each", "KB", 1 / 1024, 2)
MANY_COUNT = 100_000
MANY = (
    Figure("bytes", "memory", "MB", 1 / 1024**2),
    Figure("subscribers", "subscribers", "", 1, 0),
    EACH,
    Figure("cpu_seconds", "CPU of one event to all", "ms", 1e3, 0),
    Figure("seconds", "until the last one has it", "ms", 1e3, 0),
)

PATH = "/events"
SETTLE_SECONDS = 1.0
"""Time for a server to free what it needed to accept its subscribers."""


def fanout(server: Server, ask: Ask) -> Sample:
    count, seconds = ask.amount(1000, 20), max(1.0, 3 * ask.scale)
    with closing(Subscribers(server.port, PATH)) as subscribers:
        subscribers.open(count)
        subscribers.run(0.5)
        before = server.settled_cpu_time()
        client, events = subscribers.run(seconds)
        spent = server.settled_cpu_time() - before
        lateness = list(subscribers.lateness)
    due = seconds / work.PERIOD
    if events < due / 20:
        raise WrongResponse(f"{events} events were published of {due:.0f}")
    return {
        "cpu_seconds": spent / (events * count),
        **late(lateness),
        "came": events / due,
        "client": client,
    }


def idle(server: Server, ask: Ask) -> Sample:
    """The memory of each subscriber after the first ones, for which the server grows once.

    All of them have received an event.
    """
    first, more = ask.amount(1000, 100), ask.amount(5000, 500)
    with closing(Subscribers(server.port, PATH)) as subscribers:
        before = _memory(server, subscribers, first)
        return {"bytes_each": (_memory(server, subscribers, more) - before) / more}


def many(server: Server, ask: Ask) -> Sample:
    count = min(ask.amount(MANY_COUNT, 500), most_connections())
    alone = server.memory()
    with closing(Subscribers(server.port, PATH)) as subscribers:
        memory = _memory(server, subscribers, count)
        before = server.settled_cpu_time()
        seconds = subscribers.publish()
        spent = server.settled_cpu_time() - before
    return {
        "bytes": memory,
        "bytes_each": (memory - alone) / count,
        "subscribers": count,
        "cpu_seconds": spent,
        "seconds": seconds,
    }


def _memory(server: Server, subscribers: Subscribers, more: int) -> int:
    subscribers.open(more)
    time.sleep(SETTLE_SECONDS)
    return server.memory()
