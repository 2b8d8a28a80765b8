"""gunicorn settings fit for streams.

    gunicorn -c python:vento_wsgi.server.config module:app

Any of them can be overridden on gunicorn's command line.
"""

from __future__ import annotations

from typing import Any

from .boot_checks import prepare

worker_class = "vento_wsgi.server.StreamWorker"

worker_connections = 10_000
"""Each open stream holds one; gunicorn's 1,000 is soon full, and descriptors end at this size."""

keepalive = 75
"""Seconds. Longer than the 60 of nginx's upstream connections, so that nginx closes first."""

limit_request_line = 8190
"""Bytes: gunicorn's most. RFC 9112, section 3, recommends 8,000 at least."""

graceful_timeout = 30
"""Seconds that a stopping worker gives its streams to end."""

control_socket_disable = True
"""gunicorn would put it where all servers of a user put theirs."""


def post_worker_init(worker: Any) -> None:
    """Prepare workers that are not ours."""
    if not any(kind.__name__ == "StreamWorker" for kind in type(worker).__mro__):
        prepare(worker)
