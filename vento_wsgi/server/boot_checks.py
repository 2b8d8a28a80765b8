"""What a worker does before it serves: where logs go, how it stops, what is wrong with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ..logs import escape, printable

__all__ = ["prepare"]

STOPPING = 2
"""Seconds that a worker needs, after its streams' time is up, to end them itself."""

SHORTEST_TIMEOUT = 5
"""Seconds: a gevent worker tells that it lives once in each; fewer than this are a coin's toss."""

MOST_NAMES = 10
"""Names in a warning: they show where to look, and the rest is cured with them."""

LONGEST_ATOM = 64 * 1024
"""Characters of a part of an access log line: gunicorn's own limits keep most far below."""

_OTHERS = ("gevent", "werkzeug", "gunicorn", "greenlet", "zope", "vento_wsgi")

_HARMLESS = frozenset(
    (
        *("os.close", "signal.getsignal", "signal.set_wakeup_fd", "signal.signal"),
        *("subprocess.CompletedProcess", "threading.get_ident", "_thread.LockType"),
        *("_thread.exit", "_thread.get_ident", "_thread.stack_size"),
    )
)
"""What gevent replaces, but neither blocks the loop nor mixes requests up if it is kept."""


def prepare(worker: Any) -> None:
    """Called in a worker once it has its application."""
    _set_logging_up(worker)
    # gunicorn kills a worker at the moment at which the worker begins to end what still runs
    worker.cfg.set("graceful_timeout", max(0, worker.cfg.graceful_timeout - STOPPING))
    for warning in _warnings(worker):
        worker.log.warning(warning)


# Where logs go.


def _set_logging_up(worker: Any) -> None:
    ours, gunicorn = logging.getLogger("vento_wsgi"), logging.getLogger("gunicorn.error")
    if not any(isinstance(handler, _Fallback) for handler in ours.handlers):
        ours.addHandler(_Fallback())
    # a line for each stream costs as much as a short one: they are for who wants an access log
    access = logging.getLogger("vento_wsgi.access")
    if access.level == logging.NOTSET:
        access.setLevel(logging.INFO if worker.cfg.accesslog else logging.WARNING)
    # dictConfig() of the application disables all loggers that it does not name, unless told
    # otherwise: warnings, failures and the access log would be lost
    gunicorn.disabled = logging.getLogger("gunicorn.access").disabled = False
    # gunicorn escapes nothing but quotes
    gunicorn.addFilter(escape)
    atoms = getattr(worker.log, "atoms_wrapper_class", None)
    if atoms is not None:
        worker.log.atoms_wrapper_class = _printable_atoms(atoms)


def _printable_atoms(atoms: Any) -> Any:
    """The class of what gunicorn makes its access log of, with values that are printable."""

    def value(self: Any, name: str) -> Any:
        found = atoms.__getitem__(self, name)
        return printable(found, LONGEST_ATOM) if isinstance(found, str) else found

    return type(atoms.__name__, (atoms,), {"__getitem__": value})


class _Fallback(logging.Handler):
    """Has records of ours written where gunicorn's error log is, if nobody else writes them.

    The application may set logging up at any time, so that this is asked for each record.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_written(record):
            gunicorn = logging.getLogger("gunicorn.error")
            access = record.name == "vento_wsgi.access"  # has a level of its own
            if access or record.levelno >= gunicorn.getEffectiveLevel():
                for handler in gunicorn.handlers:
                    if record.levelno >= handler.level:
                        handler.handle(record)

    def _is_written(self, record: logging.LogRecord) -> bool:
        """Whether another handler of the record's loggers takes it."""
        log: logging.Logger | None = logging.getLogger(record.name)
        while log is not None:
            for handler in log.handlers:
                silent = handler is self or isinstance(handler, logging.NullHandler)
                if not silent and record.levelno >= handler.level:
                    return True
            log = log.parent if log.propagate else None
        return False


# What is wrong.


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
    """What modules hold of the standard library as it was, as module.name, and should not.

    Agents such as those of Sentry and Datadog keep originals on purpose, under other names. So a
    module is named only where the warning's advice helps: it was imported before the patch, though
    not by what starts gunicorn, and what it holds is not what it has asked gevent for.
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
    """The modules that were imported before gevent's patch, and could be imported after it."""
    modules = tuple(sys.modules.items())  # in the order in which their imports began
    names = [name for name, _ in modules]
    # the patch is the first to need gevent.threading
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
