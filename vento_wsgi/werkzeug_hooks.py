"""What is used of werkzeug beyond its documentation, checked when it is imported.

A response is made for every request, and most have a known content type and no other headers:
`set_up` does in a third of the time what werkzeug's ``Response.__init__`` does for these.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Request, Response

__all__ = ["set_up"]


def set_up(response: Response, status: int, fields: list[tuple[str, str]]) -> None:
    """Give a response its status and its headers. Keeps the list; does not check it."""
    response.headers = headers = Headers()
    headers._list = fields
    response._status, response._status_code = _status(status)
    response.direct_passthrough = False


@lru_cache(maxsize=64)
def _status(code: int) -> tuple[str, int]:
    response = Response(status=code)
    return response.status, response.status_code


def _missing() -> str | None:
    """The first thing that this version of werkzeug has not got."""
    # Request calls it before it reads a form, and Flask overrides it as well
    if not hasattr(Request, "_load_form_data"):
        return "Request._load_form_data"
    response = Response()
    set_up(response, 404, fields := [("Content-Type", "text/plain")])
    if [*response.headers] != fields or response.headers != Headers(fields):
        return "Headers._list"
    if (response.status, response.status_code) != ("404 NOT FOUND", 404):
        return "Response._status"
    return None


if (_name := _missing()) is not None:
    raise ImportError(
        f"werkzeug {version('werkzeug')} has no {_name}, which vento_wsgi needs: install werkzeug 3"
    )
