"""Streams as responses of Flask.

    from vento_wsgi.contrib.flask import sse, stream

    @app.get("/export")
    def export():
        return stream(rows(), "text/csv")

The functions take the same arguments as the methods of Context with the same names. They return an
``app.response_class``, so ``after_request`` functions and extensions can use the response like any
other of Flask: they may replace its body, or read all of it by ``get_data()``. A generator keeps
the request context, as with Flask's own ``stream_with_context``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import copy_context
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Response as FlaskResponse
from flask import current_app, request, stream_with_context

from ..context import BINARY, Context
from ..response import Response
from . import runs

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from ..context import HeadersLike, StreamOptionArguments

__all__ = ["file", "last_event_id", "sse", "stream"]


def stream(
    body: object,
    content_type: str = BINARY,
    *,
    status: int = 200,
    headers: HeadersLike = None,
    **options: Unpack[StreamOptionArguments],
) -> FlaskResponse:
    """``Context.stream`` as a response of the current application."""
    response: FlaskResponse = _context().stream(
        _kept(body), content_type, status=status, headers=headers, **options
    )
    return response


def sse(
    events: Iterable[object],
    *,
    headers: HeadersLike = None,
    **options: Unpack[StreamOptionArguments],
) -> FlaskResponse:
    """``Context.sse`` as a response of the current application."""
    response: FlaskResponse = _context().sse(_kept(events), headers=headers, **options)
    return response


def file(
    path: str | os.PathLike[str],
    content_type: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool | str = False,
    headers: HeadersLike = None,
) -> FlaskResponse:
    """``Context.file`` as a response of the current application."""
    response: FlaskResponse = _context().file(
        path, content_type, root=root, download=download, headers=headers
    )
    return response


def last_event_id() -> str | None:
    """``Context.last_event_id`` of the current request."""
    return Context(request.environ).last_event_id


def _context() -> Any:
    context = Context(request.environ)
    base: Any = current_app.response_class
    context.response_class = _response_class(base)
    return context


@cache
def _response_class(base: Any) -> type[Response]:
    def reduce(response: Response) -> Any:
        """Pickle as a plain response of the application's class; needs ``freeze()`` before."""
        if not response.is_sequence:
            raise TypeError("a stream cannot be pickled: call its freeze() before")
        return base, (response.response, response.status, list(response.headers))

    return type(f"Streaming{base.__name__}", (Response, base), {"__reduce__": reduce})


def _kept(body: Any) -> Any:
    """The body, in the context of the request if iterating it runs code of the application."""
    return _Kept(body) if runs(body) else body


class _Kept(Iterator[object]):
    """Flask's stream_with_context, which may be iterated and closed in any greenlet or thread.

    Flask must pop a context in the contextvars.Context in which it pushed it, but a Stream may run
    its source in another one than the view's. So all steps run in one copy.
    """

    def __init__(self, body: Any) -> None:
        keep: Any = stream_with_context
        self._context = copy_context()
        self._begun = self._dropped = False
        self._items = self._context.run(keep, self._run(body))

    def __next__(self) -> object:
        self._begun = True
        return self._context.run(next, self._items)

    def close(self) -> None:
        if not self._begun:  # stream_with_context pushes the context at the first step
            self._begun = self._dropped = True
            self._context.run(next, self._items, None)
        self._context.run(self._items.close)

    def _run(self, body: Any) -> Iterator[object]:
        items = None
        try:
            if not self._dropped:
                items = iter(body)
                for item in items:  # noqa: UP028 – yield from would close the body once more
                    yield item
        finally:
            try:
                if items is not body:
                    _close(items)
            finally:
                _close(body)


def _close(body: Any) -> None:
    if hasattr(body, "close"):
        body.close()
