"""The undocumented parts of werkzeug that are used here, checked at import.

Every request needs a response, and most responses start with a content type and no other headers.
For these, `set_up` does the work of werkzeug's ``Response.__init__`` in a third of the time.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Request, Response

__all__ = ["CAN_SET_UP", "set_up"]


def set_up(response: Response, status: int, fields: list[tuple[str, str]]) -> None:
    """Do what ``Response.__init__`` does, except for the body. `fields`: the headers, unchecked."""
    response.headers = headers = Headers()
    headers._list = fields
    response._status, response._status_code = _status(status)
    response.direct_passthrough = False
    response._on_close = []


@lru_cache(maxsize=64)
def _status(code: int) -> tuple[str, int]:
    response = Response(status=code)
    return response.status, response.status_code


def _can_set_up() -> bool:
    fields = [("Content-Type", "text/html; charset=utf-8")]
    usual = Response(status=404, headers=fields)
    response = Response.__new__(Response)
    set_up(response, 404, fields)
    response.response = usual.response
    return vars(response) == vars(usual) and [*response.headers] == fields


CAN_SET_UP = _can_set_up()
"""Whether `set_up` fits this version of werkzeug. If not, ``Response.__init__`` is called."""

# our Request overrides it, and so does Flask's: it is called before a form is read
if not hasattr(Request, "_load_form_data"):
    raise ImportError(
        f"werkzeug {version('werkzeug')} has no Request._load_form_data, which vento_wsgi needs: "
        "install werkzeug 3"
    )
