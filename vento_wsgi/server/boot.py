"""What a worker does before it serves: where logs go, how it stops, what is wrong with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["prepare"]

STOPPING = 2
"""Seconds that a worker needs, after its streams' time is up, to end them itself."""

SHORTEST_TIMEOUT = 5
"""Seconds: a gevent worker tells that it lives once in each; fewer than this are a coin's toss."""

_OURS = ("gevent", "werkzeug", "gunicorn", "greenlet", "zope", "vento_wsgi")


def prepare(worker: Any) -> None:
    """Called in a worker once it has its application."""
    ours, theirs = logging.getLogger("vento_wsgi"), logging.getLogger("gunicorn.error")
    if not ours.handlers:
        ours.handlers, ours.propagate = theirs.handlers, False
        ours.setLevel(theirs.level)
    # a line for each stream costs as much as a short one: they are for who wants an access log
    access = logging.getLogger("vento_wsgi.access")
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO if worker.cfg.accesslog else logging.WARNING)
    # gunicorn kills a worker at the moment at which the worker begins to end what still runs
    worker.cfg.set("graceful_timeout", max(0, worker.cfg.graceful_timeout - STOPPING))
    for warning in _warnings(worker):
        worker.log.warning(warning)


def _warnings(worker: Any) -> Iterator[str]:
    cfg, kind = worker.cfg, type(worker).__name__
    cure = "use -k vento_wsgi.server.StreamWorker"
    if kind == "SyncWorker":
        yield f"a sync worker serves one stream at a time and none longer than --timeout: {cure}"
    elif kind == "ThreadWorker":
        yield f"each stream holds one of {cfg.threads} threads: {cure}, or raise --threads"
    if 0 < cfg.timeout < SHORTEST_TIMEOUT:
        yield f"--timeout {cfg.timeout} ends workers that are only busy: {SHORTEST_TIMEOUT} or more"
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    unpatched = sorted(_unpatched(monkey))
    patch = "start gunicorn's settings file with: from gevent import monkey; monkey.patch_all()"
    if cfg.preload_app and unpatched:
        yield (
            "preload_app imported the application before gevent patched the standard library, "
            f"so that its locks and sockets block the worker ({', '.join(unpatched)}): {patch}"
        )
    elif unpatched:
        names = ", ".join(unpatched)
        yield f"imported before gevent patched the standard library: {names}; {patch}"


def _unpatched(monkey: Any) -> Iterator[str]:
    """What modules still hold of the standard library as it was, as module.name."""
    originals = {
        id(value)
        for attributes in monkey.saved.values()
        for value in attributes.values()
        if callable(value)
    }
    lock = type(monkey.get_original("_thread", "allocate_lock")())
    for module in tuple(sys.modules.values()):
        name = getattr(module, "__name__", None)
        if not isinstance(name, str) or _belongs_elsewhere(name):
            continue
        for key, value in tuple(vars(module).items()):
            if id(value) in originals or type(value) is lock:
                yield f"{name}.{key}"


def _belongs_elsewhere(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in _OURS or top.startswith("_")
