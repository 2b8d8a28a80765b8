"""Settings of gunicorn for streams.

    gunicorn -c python:vento_wsgi.server.config module:app

The command line of gunicorn overrides them.
"""

from __future__ import annotations

from typing import Any

from .boot_checks import prepare

worker_class = "vento_wsgi.server.StreamWorker"

worker_connections = 10_000
"""Connections of a worker. Each open stream holds one, so gunicorn's default of 1,000 is low. More
than this often exceeds the limit of descriptors.
"""

keepalive = 75
"""Seconds. More than the 60 s of nginx's upstream connections, so that nginx closes first."""

limit_request_line = 8190
"""Bytes: the maximum of gunicorn. RFC 9112, section 3, recommends at least 8,000."""

graceful_timeout = 30
"""Seconds in which the streams of a stopping worker may end."""

control_socket_disable = True
"""gunicorn would create it at a path that all servers of a user share."""


def post_worker_init(worker: Any) -> None:
    """Prepare workers of other classes; a StreamWorker prepares itself."""
    if not any(kind.__name__ == "StreamWorker" for kind in type(worker).__mro__):
        prepare(worker)
