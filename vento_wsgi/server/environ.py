"""The environ of a request: the part that all requests of a connection share is made once.

PEP 3333 and gunicorn define the keys. This module does the work of gunicorn's `wsgi.create` for
requests of the fast path (see request_parser.py). The tests compare the two key by key.
"""

from __future__ import annotations

import os
from typing import Any

from gunicorn.config import Config
from gunicorn.http import wsgi

__all__ = ["connection_environ", "worker_environ"]


class WSGIErrorsWrapper(wsgi.WSGIErrorsWrapper):
    """wsgi.errors of all requests. Each write looks up gunicorn's log, because USR1 reopens it."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg

    def write(self, data: Any) -> None:
        wsgi.WSGIErrorsWrapper(self._cfg).write(data)


def worker_environ(cfg: Config) -> dict[str, Any]:
    """The part that all requests of a worker share."""
    environ = dict(wsgi.base_environ(cfg))
    environ["wsgi.errors"] = WSGIErrorsWrapper(cfg)
    environ["wsgi.multithread"] = True
    environ["wsgi.url_scheme"] = "https" if cfg.is_ssl else "http"
    environ["SCRIPT_NAME"] = os.environ.get("SCRIPT_NAME", "")
    return environ


def connection_environ(
    shared: dict[str, Any], client: Any, address: Any, listener_name: Any
) -> dict[str, Any]:
    """The part that all requests of a connection share.

    address: the client's. listener_name: that of the listening socket; for a Unix socket
    SERVER_NAME and SERVER_PORT depend on the Host of each request and are not set here.
    """
    environ = shared.copy()
    environ["gunicorn.socket"] = client
    if isinstance(address, (str, bytes)):
        environ["REMOTE_ADDR"] = os.fsdecode(address)
    else:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = address[0], str(address[1])
    if not isinstance(listener_name, (str, bytes)):
        environ["SERVER_NAME"], environ["SERVER_PORT"] = listener_name[0], str(listener_name[1])
    return environ
