"""Preparation of a worker before it serves: logging, its grace period, and warnings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ..logs import escape, printable

__all__ = ["prepare"]

STOPPING = 2
"""Seconds that a worker needs to end its remaining streams after their grace period."""

SHORTEST_TIMEOUT = 5
"""Seconds of --timeout, at least: a gevent worker sends its heartbeat once a second, and a busy
one may be late.
"""

MOST_NAMES = 10
"""Names in a warning, at most: the same fix helps for the rest."""

LONGEST_ATOM = 64 * 1024
"""Characters of one value in an access log line, at most; gunicorn's limits keep most shorter."""

_OTHERS = ("gevent", "werkzeug", "gunicorn", "greenlet", "zope", "vento_wsgi")

_HARMLESS = frozenset(
    (
        *("os.close", "signal.getsignal", "signal.set_wakeup_fd", "signal.signal"),
        *("subprocess.CompletedProcess", "threading.get_ident", "_thread.LockType"),
        *("_thread.exit", "_thread.get_ident", "_thread.stack_size"),
    )
)
"""Functions that gevent patches, but whose originals neither block the loop nor mix requests."""


def prepare(worker: Any) -> None:
    """Called in a worker once it has loaded its application."""
    _set_logging_up(worker)
    # gunicorn kills a worker after graceful_timeout, when the worker would only begin to end its
    # remaining streams
    worker.cfg.set("graceful_timeout", max(0, worker.cfg.graceful_timeout - STOPPING))
    for warning in _warnings(worker):
        worker.log.warning(warning)


# Logging.


def _set_logging_up(worker: Any) -> None:
    ours, gunicorn = logging.getLogger("vento_wsgi"), logging.getLogger("gunicorn.error")
    if not any(isinstance(handler, _Fallback) for handler in ours.handlers):
        ours.addHandler(_Fallback())
    # a log line costs as much as a short stream, so it is written only with an access log
    access = logging.getLogger("vento_wsgi.access")
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO if worker.cfg.accesslog else logging.WARNING)
    # by default, the application's dictConfig() has disabled all loggers that it does not name:
    # warnings, failures and the access log would be lost
    gunicorn.disabled = logging.getLogger("gunicorn.access").disabled = False
    # gunicorn itself escapes only quotes
    gunicorn.addFilter(escape)
    atoms = getattr(worker.log, "atoms_wrapper_class", None)
    if atoms is not None:
        worker.log.atoms_wrapper_class = _printable_atoms(atoms)


def _printable_atoms(atoms: Any) -> Any:
    """A subclass of gunicorn's class of access log values whose values are printable."""

    def value(self: Any, name: str) -> Any:
        found = atoms.__getitem__(self, name)
        return printable(found, LONGEST_ATOM) if isinstance(found, str) else found

    return type(atoms.__name__, (atoms,), {"__getitem__": value})


class _Fallback(logging.Handler):
    """Writes our records to gunicorn's error log if no other handler takes them.

    That is checked for each record, because the application may configure logging at any time.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_written(record):
            gunicorn = logging.getLogger("gunicorn.error")
            access = record.name == "vento_wsgi.access"  # this logger has a level of its own
            if access or record.levelno >= gunicorn.getEffectiveLevel():
                for handler in gunicorn.handlers:
                    if record.levelno >= handler.level:
                        handler.handle(record)

    def _is_written(self, record: logging.LogRecord) -> bool:
        """Whether another handler of the record's loggers writes it."""
        log: logging.Logger | None = logging.getLogger(record.name)
        while log is not None:
            for handler in log.handlers:
                silent = handler is self or isinstance(handler, logging.NullHandler)
                if not silent and record.levelno >= handler.level:
                    return True
            log = log.parent if log.propagate else None
        return False


# Warnings.


def _warnings(worker: Any) -> Iterator[str]:
    cfg, kind = worker.cfg, type(worker).__name__
    advice = "use -k vento_wsgi.server.StreamWorker"
    if kind == "SyncWorker":
        yield f"a sync worker serves one stream at a time and none longer than --timeout: {advice}"
    elif kind == "ThreadWorker":
        yield f"each stream holds one of {cfg.threads} threads: {advice}, or raise --threads"
    if 0 < cfg.timeout < SHORTEST_TIMEOUT:
        yield (
            f"--timeout {cfg.timeout} ends workers that are only busy: "
            f"use {SHORTEST_TIMEOUT} or more"
        )
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    unpatched = sorted(_unpatched(monkey))
    names = ", ".join(unpatched[:MOST_NAMES])
    if len(unpatched) > MOST_NAMES:
        names += f" and {len(unpatched) - MOST_NAMES} more"
    patch = "start gunicorn's settings file with: from gevent import monkey; monkey.patch_all()"
    if cfg.preload_app and unpatched:
        yield (
            "preload_app imported the application before gevent patched the standard library, "
            f"so that its locks and sockets block the worker ({names}): {patch}"
        )
    elif unpatched:
        yield f"imported before gevent patched the standard library: {names}; {patch}"


def _unpatched(monkey: Any) -> Iterator[str]:
    """Names, as module.name, that still refer to unpatched objects of the standard library.

    A module counts only if the advice of the warning helps: it was imported before the patch, and
    not by the program that starts gunicorn. Agents such as those of Sentry and Datadog keep
    originals on purpose, got from gevent and under other names; these do not count.
    """
    originals = {
        id(value): name
        for module, attributes in monkey.saved.items()
        for name, value in attributes.items()
        if callable(value) and f"{module}.{name}" not in _HARMLESS
    }
    lock = type(monkey.get_original("_thread", "allocate_lock")())
    for name, module in _imported_too_early():
        held = vars(module)
        asks = any(value is monkey or value is monkey.get_original for value in held.values())
        for key, value in tuple(held.items()):
            kept = asks and key != originals.get(id(value))
            if type(value) is lock or (id(value) in originals and not kept):
                yield f"{name}.{key}"


def _imported_too_early() -> Iterator[tuple[str, ModuleType]]:
    """The modules that were imported before gevent's patch and could be imported after it."""
    modules = tuple(sys.modules.items())  # in the order in which their imports began
    names = [name for name, _ in modules]
    # the patch is the first to import gevent.threading
    first, last = (
        names.index(name) if name in names else 0 for name in ("gunicorn", "gevent.threading")
    )
    others = {_package(name) for name in names[:first]}.union(_OTHERS, sys.stdlib_module_names)
    for name, module in modules[first:last]:
        package = _package(name)
        if isinstance(module, ModuleType) and package not in others and not package.startswith("_"):
            yield name, module


def _package(module: str) -> str:
    return module.partition(".")[0]
