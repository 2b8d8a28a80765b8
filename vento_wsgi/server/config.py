"""gunicorn settings fit for streams.

    gunicorn -c python:vento_wsgi.server.config module:app

Any of them can be overridden on gunicorn's command line.
"""

from __future__ import annotations

import logging
from typing import Any

from .boot import report

worker_class = "vento_wsgi.server.StreamWorker"

worker_connections = 10_000
"""Each open stream holds one; gunicorn's 1,000 is soon full, and descriptors end at this size."""

keepalive = 75
"""Seconds. Longer than the 60 of nginx's upstream connections, so that nginx closes first."""

graceful_timeout = 30
"""Seconds that a stopping worker gives its streams to end."""

control_socket_disable = True
"""gunicorn would put it where all servers of a user put theirs."""


STOPPING = 2
"""Seconds that a worker needs, after its streams' time is up, to end them itself."""


def post_worker_init(worker: Any) -> None:
    """Have log lines go where gunicorn's go, and streams end before the worker is killed."""
    # gunicorn kills a worker at the moment at which the worker begins to end what still runs
    worker.cfg.set("graceful_timeout", max(0, worker.cfg.graceful_timeout - STOPPING))
    if type(worker).__name__ != "StreamWorker":  # which reports by itself
        report(worker)
    ours, theirs = logging.getLogger("vento_wsgi"), logging.getLogger("gunicorn.error")
    if not ours.handlers:
        ours.handlers = theirs.handlers
        ours.propagate = False
