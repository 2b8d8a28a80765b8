"""The pytest plugin of vento_wsgi: the fixture ``live_server``.

    def test_events(live_server):
        server = live_server("module:app")
        with urllib.request.urlopen(f"{server.url}/events") as response:
            ...

It stands beside the package because pytest loads it in every run of whoever has the package
installed: a module within it would import the framework, before coverage measures and gevent
patches. Where another plugin has a ``live_server`` (pytest-django's, pytest-flask's) that one
stays, and this is ``vento_live_server``, which it is everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vento_wsgi.testing import LiveServer

__all__ = ["vento_live_server"]


@pytest.fixture
def vento_live_server() -> Iterator[Callable[..., LiveServer]]:
    """Start servers: ``live_server("module:app", options=[…], env={…})`` is a LiveServer.

    Each runs in gunicorn on a free port, and is stopped when the test ends.
    """
    from vento_wsgi.testing import LiveServer

    with ExitStack() as servers:

        def start(app: object, **options: Any) -> LiveServer:
            return servers.enter_context(LiveServer(app, **options))

        yield start


class _Named:
    @pytest.fixture
    def live_server(
        self, vento_live_server: Callable[..., LiveServer]
    ) -> Callable[..., LiveServer]:
        """The same as vento_live_server."""
        return vento_live_server


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins = config.pluginmanager
    if not any(hasattr(plugin, "live_server") for plugin in plugins.get_plugins()):
        plugins.register(_Named(), "vento_wsgi-live_server")
