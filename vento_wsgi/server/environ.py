"""The environ of a request: what requests of one connection have in common is made once.

PEP 3333 and gunicorn say what stands in it. This is gunicorn's `wsgi.create` for the requests that
the fast path of request_parser.py takes; the tests compare the two key by key.
"""

from __future__ import annotations

import os
from typing import Any

from gunicorn.config import Config
from gunicorn.http import wsgi

__all__ = ["connection_environ", "worker_environ"]


class WSGIErrorsWrapper(wsgi.WSGIErrorsWrapper):
    """wsgi.errors of all requests. Each write looks gunicorn's log up, since USR1 reopens it."""

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

    address: of the client; listener_name: of the listening socket. Where that is a Unix socket,
    SERVER_NAME and SERVER_PORT depend on each request's Host, and are missing here.
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
