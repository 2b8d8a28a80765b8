"""Serving: the worker, its settings, and what ``vento-wsgi run`` does."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .worker import StreamWorker

__all__ = ["StreamWorker"]

if sys.platform == "win32" or not hasattr(os, "fork") or not importlib.util.find_spec("fcntl"):
    raise ImportError(
        "vento_wsgi.server runs on Linux and macOS: it needs gunicorn, which does not run on "
        "Windows. Serve the application with another WSGI server there, such as waitress."
    )


def __getattr__(name: str) -> Any:
    # the settings are read before gevent may be imported, so the worker waits until asked for
    if name == "StreamWorker":
        from .worker import StreamWorker

        return StreamWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
