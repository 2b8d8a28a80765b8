"""Tools for the tests of applications: a client that reads streams, a server that runs.

    with Client(app).stream("GET", "/events") as response:
        assert next(response.events()).data == "first"
    assert response.ending.reason == "disconnected"

    with LiveServer("module:app") as server:
        requests.get(server.url)

pytest has the server as the fixture ``live_server``.
"""

from .client import Client, StreamResponse
from .live import LiveServer

__all__ = ["Client", "LiveServer", "StreamResponse"]
