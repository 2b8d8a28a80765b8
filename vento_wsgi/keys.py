"""Keys of ours in environ: what a server, or the application, says of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["CONNECTION", "DRAIN", "PARK", "ROUTE", "route", "routes"]

ROUTE = "vento_wsgi.route"
"""The route that was found, as ``GET /users/<int:id>``."""

DRAIN = "vento_wsgi.drain"
"""The worker's drain, where the server has one."""

CONNECTION = "vento_wsgi.connection"
"""What the server says of the client's connection, where it does; see connection.py."""

PARK = "vento_wsgi.park"
"""Present if the server can take over a subscription's socket."""

routes: set[str] = set()
"""The routes of all streams so far, without the paths of those that have none."""


def route(environ: WSGIEnvironment) -> str:
    """What a stream is called: its route, else its path."""
    known: str | None = environ.get(ROUTE)
    if known is None:
        return f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')}"
    routes.add(known)
    return known
