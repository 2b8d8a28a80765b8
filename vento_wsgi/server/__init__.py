"""Serving: the worker, its settings, and what ``vento-wsgi run`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .worker import StreamWorker

__all__ = ["StreamWorker"]


def __getattr__(name: str) -> Any:
    # the settings are read before gevent may be imported, so the worker waits until asked for
    if name == "StreamWorker":
        from .worker import StreamWorker

        return StreamWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
