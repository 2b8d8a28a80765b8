"""Keys of ours in environ, and what they and others say of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ..logs import printable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["CONNECTION", "ROUTE", "fields", "request_id", "route", "routes"]

_PATH = "/:@!$&'()*+,;=~"
"""What stands as it is in a path (RFC 3986, section 3.3), beside letters, digits and ``-._``."""

ROUTE = "vento_wsgi.route"
"""The route that was found, as ``GET /users/<int:id>``."""

CONNECTION = "vento_wsgi.connection"
"""The Connection of the request, where the server gives one; see connection.py."""

routes: dict[str, str] = {}
"""The routes of all streams so far, each by itself, so that streams share the text of theirs. The
paths of those that have none are not here: clients could fill the memory with them.
"""

LONGEST = 200
"""Characters of a route or a request id: many times what they need."""


def route(environ: WSGIEnvironment) -> str:
    """What a stream is called, in logs and elsewhere: its route, else its method and path.

    The path is encoded as in a URL, so that it is one word of printable ASCII whatever the client
    has sent.
    """
    known: str | None = environ.get(ROUTE)
    if known is not None:
        return routes.setdefault(known, known)
    path = quote(environ.get("PATH_INFO", ""), _PATH, "latin-1", "replace")
    return printable(f"{environ['REQUEST_METHOD']} {path}", LONGEST)


def fields(environ: WSGIEnvironment) -> dict[str, object]:
    """What a log record says of a request, as ``extra``."""
    return {"route": route(environ), "request_id": request_id(environ)}


def request_id(environ: WSGIEnvironment) -> str | None:
    """X-Request-ID, by which proxies and log files tell requests apart."""
    found: str | None = environ.get("HTTP_X_REQUEST_ID")
    return None if found is None else printable(found, LONGEST)
