"""Streams as Django's responses.

    from vento_wsgi.contrib.django import sse, stream

    def export(request):
        return stream(request, rows(), "text/csv")

What they take after the request is what the methods of Context take, by the same names. They
return a StreamingHttpResponse, so Django's middleware sees what it expects. The view's database
connection is given back when the stream begins, not when it ends (`close_old_connections`), and
that of a generator when it ends: a stream that only waits holds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import BadRequest, PermissionDenied
from django.db import close_old_connections
from django.http import Http404, HttpRequest, StreamingHttpResponse
from werkzeug import exceptions

from ..broker import Subscription
from ..broker.feed import Feed
from ..context import BINARY, Context
from ..response import Response

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from ..context import HeadersLike, PolicyOptions

__all__ = ["file", "last_event_id", "sse", "stream"]


def stream(
    request: HttpRequest,
    body: object,
    content_type: str = BINARY,
    *,
    status: int = 200,
    headers: HeadersLike = None,
    **policies: Unpack[PolicyOptions],
) -> StreamingHttpResponse:
    """``Context.stream`` as a response of Django's."""
    response = _context(request).stream(
        _releasing(body), content_type, status=status, headers=headers, **policies
    )
    return _Streaming(request, response)


def sse(
    request: HttpRequest,
    events: Iterable[object],
    *,
    headers: HeadersLike = None,
    **policies: Unpack[PolicyOptions],
) -> StreamingHttpResponse:
    """``Context.sse`` as a response of Django's."""
    response = _context(request).sse(_releasing(events), headers=headers, **policies)
    return _Streaming(request, response)


def file(
    request: HttpRequest,
    path: str | os.PathLike[str],
    content_type: str | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool | str = False,
    headers: HeadersLike = None,
) -> StreamingHttpResponse:
    """``Context.file`` as a response of Django's. Raises Http404 or PermissionDenied."""
    try:
        response = _context(request).file(
            path, content_type, root=root, download=download, headers=headers
        )
    except exceptions.NotFound as error:
        raise Http404 from error
    except exceptions.Forbidden as error:
        raise PermissionDenied from error
    return _Streaming(request, response)


def last_event_id(request: HttpRequest) -> str | None:
    """``Context.last_event_id`` of a request. Raises Django's BadRequest."""
    try:
        return _context(request).last_event_id
    except exceptions.BadRequest as error:
        raise BadRequest(error.description) from error


class _Streaming(StreamingHttpResponse):
    """A response of ours as Django has it."""

    def __init__(self, request: HttpRequest, response: Response) -> None:
        environ = request.META  # of a WSGIRequest it is the environ
        body, status, headers = response.get_wsgi_response(environ)
        self._feed = body if isinstance(body, Feed) else None
        code, _, reason = status.partition(" ")
        super().__init__(body if self._feed is None else (), status=int(code), reason=reason)
        if "Content-Type" not in response.headers:
            del self["Content-Type"]
        for name, value in headers:
            self[name] = value
        self._own = self._iterator

    def __iter__(self) -> Iterator[bytes]:
        close_old_connections()
        if self._feed is not None and self._iterator is self._own:
            feed, self._feed = self._feed, None
            self._resource_closers.append(feed.close)
            return iter(feed)
        return super().__iter__()

    def vento_feed(self) -> Feed | None:
        """The subscription to park, unless middleware has made another body of it."""
        if self._feed is not None and self._iterator is self._own:
            close_old_connections()
            self._feed.closes(self.close)
            return self._feed
        return None


def _context(request: HttpRequest) -> Context:
    return Context(request.META)


def _releasing(body: Any) -> Any:
    """A body that gives back, when it ends, the connections that it has opened."""
    runs = isinstance(body, Iterator) and not isinstance(body, Subscription)
    return _released(body) if runs and not hasattr(body, "read") else body


def _released(body: Iterator[object]) -> Iterator[object]:
    try:
        yield from body
    finally:
        close_old_connections()
