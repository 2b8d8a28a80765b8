"""Our keys in environ, and the names that log records use for a request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ..logs import printable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["CONNECTION", "ROUTE", "fields", "request_id", "route", "routes"]

_PATH = "/:@!$&'()*+,;=~"
"""Characters that a path may contain unescaped (RFC 3986, section 3.3), besides letters, digits and
``-._``.
"""

ROUTE = "vento_wsgi.route"
"""The key of the route that matched, such as ``GET /users/<int:id>``."""

CONNECTION = "vento_wsgi.connection"
"""The key of the request's Connection, if the server provides one; see connection.py."""

routes: dict[str, str] = {}
"""All routes of streams so far, each mapped to itself: streams of a route share one string. Paths
without a route are not kept, since clients could fill the memory with them.
"""

LONGEST = 200
"""The longest route or request id in a log record, in characters. Real ones are much shorter."""


def route(environ: WSGIEnvironment) -> str:
    """The name of a stream in logs: its route, or its method and path if it has no route.

    The path is encoded as in a URL, so it is always one word of printable ASCII.
    """
    known: str | None = environ.get(ROUTE)
    if known is not None:
        return routes.setdefault(known, known)
    path = quote(environ.get("PATH_INFO", ""), _PATH, "latin-1", "replace")
    return printable(f"{environ['REQUEST_METHOD']} {path}", LONGEST)


def fields(environ: WSGIEnvironment) -> dict[str, object]:
    """The ``extra`` of a log record about a request."""
    return {"route": route(environ), "request_id": request_id(environ)}


def request_id(environ: WSGIEnvironment) -> str | None:
    """X-Request-ID, which identifies a request in the logs of proxies; None if there is none."""
    found: str | None = environ.get("HTTP_X_REQUEST_ID")
    return None if found is None else printable(found, LONGEST)
