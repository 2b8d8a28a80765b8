"""Streams as Django's responses.

    from vento_wsgi.contrib.django import sse, stream

    def export(request):
        return stream(request, rows(), "text/csv")

What they take after the request is what the methods of Context take, by the same names. They
return a StreamingHttpResponse, so Django's middleware sees what it expects. The view's database
connection is given back before the stream begins, and those that a generator opens when it
ends: a stream that only waits holds none. (So a generator makes its cursor itself.)
GZipMiddleware compresses all but event streams, which it would hold up, and ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import (  # type: ignore[import-untyped]
    BadRequest,
    PermissionDenied,
)
from django.db import connections  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    Http404,
    HttpRequest,
    StreamingHttpResponse,
)
from werkzeug import exceptions

from .. import body as bodies
from ..broker.feed import Feed
from ..context import BINARY, Context
from ..files import Window
from ..response import Response
from . import runs

if TYPE_CHECKING:
    import os

    from _typeshed.wsgi import WSGIEnvironment
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
    response = Context(request.META).stream(
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
    response = Context(request.META).sse(_releasing(events), headers=headers, **policies)
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
        response = Context(request.META).file(
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
        return Context(request.META).last_event_id
    except exceptions.BadRequest as error:
        raise BadRequest(error.description) from error


class _Streaming(StreamingHttpResponse):  # type: ignore[misc]
    """A response of ours as Django has it."""

    block_size = bodies.READ_SIZE
    file_to_stream: Window | None = None
    """What Django gives to wsgi.file_wrapper, where there is one."""

    def __init__(self, request: HttpRequest, response: Response) -> None:
        environ = request.META  # of a WSGIRequest it is the environ
        status, headers = response.head(environ)
        self._body = _Body(response, environ)
        super().__init__(self._body, status=int(status.partition(" ")[0]))
        self._live = response.event_stream
        self._window = self.file_to_stream = response.for_sendfile(environ)
        del self["Content-Type"]
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.cookies.load(value)
            else:
                self[name] = f"{self[name]}, {value}" if name in self.headers else value

    def _set_streaming_content(self, value: Any) -> None:
        self.file_to_stream = None
        super()._set_streaming_content(value)

    def has_header(self, header: str) -> bool:
        """Django's; an event stream and a part of a file are not for GZipMiddleware."""
        if header.lower() == "content-encoding" and (self._live or self.status_code == 206):
            return True
        return bool(super().has_header(header))

    def vento_feed(self) -> Feed | None:
        """The subscription to park, unless middleware has made another body of it."""
        body = self._body.begin() if self._iterator is self._body else None
        if not isinstance(body, Feed):
            return None
        body.closes(self.close)
        return body

    def close(self) -> None:
        try:
            if self._window is not None:  # Django has put this method in the place of its own
                Window.close(self._window)
        finally:
            super().close()


class _Body(Iterator[bytes]):
    """The body of `response`, made when the server comes for it: middleware may drop it."""

    def __init__(self, response: Response, environ: WSGIEnvironment) -> None:
        self._response = response
        self._environ = environ
        self._begun: Any = None
        self._chunks: Iterator[bytes] | None = None

    def begin(self) -> Any:
        if self._begun is None:
            _release()
            self._begun = self._response.get_app_iter(self._environ)
        return self._begun

    def __next__(self) -> bytes:
        if self._chunks is None:
            self._chunks = iter(self.begin())
        return next(self._chunks)

    def close(self) -> None:
        try:
            if hasattr(self._begun, "close"):
                self._begun.close()
        finally:
            self._response.close()


def _releasing(body: Any) -> Any:
    """A body that gives back, when it ends, the connections that it has opened."""
    return _Releasing(body) if runs(body) else body


class _Releasing:
    """See above. Connections are by thread, or greenlet: they are given back where it runs."""

    def __init__(self, body: Iterable[object]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[object]:
        try:
            for item in self._body:  # noqa: UP028 – yield from would close the body once more
                yield item
        finally:
            _release()

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            _release()


def _release() -> None:
    """Close the database connections of this thread, also those that are to be kept.

    Under gevent nobody else could use them meanwhile.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
