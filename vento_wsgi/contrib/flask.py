"""Streams as Flask's responses.

    from vento_wsgi.contrib.flask import sse, stream

    @app.get("/export")
    def export():
        return stream(rows(), "text/csv")

What they take is what the methods of Context take, by the same names. They return an
``app.response_class``, so ``after_request`` functions and extensions see what they expect. A
generator keeps the request context, as with Flask's own ``stream_with_context``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flask import Response as FlaskResponse
from flask import current_app, has_request_context, request, stream_with_context

from ..broker import Subscription
from ..context import BINARY, Context
from ..response import Response

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from ..context import HeadersLike, PolicyOptions

__all__ = ["file", "last_event_id", "sse", "stream"]


def stream(
    body: object,
    content_type: str = BINARY,
    *,
    status: int = 200,
    headers: HeadersLike = None,
    **policies: Unpack[PolicyOptions],
) -> FlaskResponse:
    """``Context.stream`` as a response of the current application."""
    return _context().stream(_kept(body), content_type, status=status, headers=headers, **policies)


def sse(
    events: Iterable[object], *, headers: HeadersLike = None, **policies: Unpack[PolicyOptions]
) -> FlaskResponse:
    """``Context.sse`` as a response of the current application."""
    return _context().sse(_kept(events), headers=headers, **policies)


def file(
    path: str | os.PathLike[str],
    content_type: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool | str = False,
    headers: HeadersLike = None,
) -> FlaskResponse:
    """``Context.file`` as a response of the current application."""
    return _context().file(path, content_type, root=root, download=download, headers=headers)


def last_event_id() -> str | None:
    """``Context.last_event_id`` of the current request."""
    return Context(request.environ).last_event_id


def _context() -> Any:
    context = Context(request.environ)
    context.response_class = _response_class(current_app.response_class)
    return context


@lru_cache(maxsize=16)
def _response_class(base: type[FlaskResponse]) -> type[Response]:
    return type(f"Streaming{base.__name__}", (Response, base), {})


def _kept(body: Any) -> Any:
    """A body that runs in the request's context, if it is an iterator that is run at all."""
    runs = isinstance(body, Iterator) and not isinstance(body, Subscription)
    if runs and not hasattr(body, "read") and has_request_context():
        return stream_with_context(body)
    return body
