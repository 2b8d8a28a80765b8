"""Tools for testing applications: a client that reads streams, and a real server.

    with Client(app).stream("GET", "/events") as response:
        assert next(response.events()).data == "first"
    assert response.ending.reason == "disconnected"

    with LiveServer("module:app") as server:
        requests.get(server.url)

In pytest, the fixture ``live_server`` starts the server.
"""

from .client import Client, StreamResponse
from .live import LiveServer

__all__ = ["Client", "LiveServer", "StreamResponse"]
