"""Serve an application with gunicorn, for the command line and ``app.run()``."""

from __future__ import annotations

import socket
from typing import Any

from gunicorn.app.base import Application
from gunicorn.errors import AppImportError

from ..exceptions import AppNotFound
from .importer import check, load

__all__ = ["run"]

SETTINGS = "python:vento_wsgi.server.config"


class _Server(Application):
    def __init__(self, target: str, settings: dict[str, Any]) -> None:
        self._target = target
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        self.load_config_from_module_name_or_filename(SETTINGS)
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        try:
            return load(self._target)
        except AppNotFound as error:
            raise AppImportError(str(error)) from error


def run(target: str, *, host: str, port: int, workers: int, reload: bool) -> None:
    """Serve ``module:app`` until the process is told to stop.

    Raises AppNotFound if the module does not exist, OSError if the address cannot be used.
    """
    check(target)
    _check_address(host, port)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    settings: dict[str, Any] = {"bind": address, "workers": workers, "proc_name": target}
    if reload:
        # open streams must not delay a reload: their clients reconnect
        settings |= {"reload": True, "graceful_timeout": 1}
    _Server(target, settings).run()


def _check_address(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
