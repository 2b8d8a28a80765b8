"""Streams as responses of Django.

    from vento_wsgi.contrib.django import sse, stream

    def export(request):
        return stream(request, rows(), "text/csv")

After the request, the functions take the same arguments as the methods of Context with the same
names. They return a StreamingHttpResponse, which Django's middleware can handle.

A generator sees the language, the time zone and the URLconf of its view, and everything else that
is in ContextVars or asgiref's Local, as of the call of `stream` or `sse`. It does not see values
that are stored by thread, because another greenlet or thread may run it: threading.local, a Local
with thread_critical, and therefore the tenant of a database connection. The view must pass such
values to the generator.

The view's database connection is closed before the stream starts, and connections that a generator
opens are closed when it ends, so a stream that only waits holds none. (A generator must therefore
make its own cursor.) GZipMiddleware compresses all responses except ranges and event streams, which
it would delay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextvars import Context as Contextvars
from contextvars import copy_context
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING, Any

import asgiref.sync
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
from django.utils.cache import patch_vary_headers  # type: ignore[import-untyped]
from werkzeug import exceptions

from ..bodies import sources as bodies
from ..bodies.files import Window
from ..broker.body import SubscriptionBody
from ..context import BINARY, Context
from ..response import Response
from . import runs

if TYPE_CHECKING:
    import os

    from _typeshed.wsgi import WSGIEnvironment
    from typing_extensions import Unpack

    from ..context import HeadersLike, StreamOptionArguments

__all__ = ["file", "last_event_id", "sse", "stream"]

_restore_context: Any = getattr(asgiref.sync, "_restore_context", lambda _: None)


def stream(
    request: HttpRequest,
    body: object,
    content_type: str = BINARY,
    *,
    status: int = 200,
    headers: HeadersLike = None,
    **options: Unpack[StreamOptionArguments],
) -> StreamingHttpResponse:
    """``Context.stream`` as a response of Django."""
    response = Context(request.META).stream(
        _in_view(body), content_type, status=status, headers=headers, **options
    )
    return _Streaming(request, response)


def sse(
    request: HttpRequest,
    events: Iterable[object],
    *,
    headers: HeadersLike = None,
    **options: Unpack[StreamOptionArguments],
) -> StreamingHttpResponse:
    """``Context.sse`` as a response of Django."""
    response = Context(request.META).sse(_in_view(events), headers=headers, **options)
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
    """``Context.file`` as a response of Django. Raises Http404 or PermissionDenied."""
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
    """A Response of this package as a response of Django."""

    block_size = bodies.READ_SIZE
    file_to_stream: Window | None = None
    """The file that Django gives to the server's wsgi.file_wrapper, if any."""

    def __init__(self, request: HttpRequest, response: Response) -> None:
        environ = request.META  # a WSGIRequest has its environ here
        status, headers = response.head(environ)
        self._body = _Body(response, environ)
        super().__init__(self._body, status=int(status.partition(" ")[0]))
        self._live = response.event_stream
        self._window = self.file_to_stream = response.for_sendfile(environ)
        del self["Content-Type"]
        for name, value in headers:
            if name.lower() == "set-cookie":
                self._add_cookie(_Cookie(value))
            else:
                self[name] = f"{self[name]}, {value}" if name in self.headers else value

    def _add_cookie(self, cookie: _Cookie) -> None:
        name = cookie.key
        if name in self.cookies:  # the same name may be set for another path or domain
            name = f"{name} {len(self.cookies)}"  # a unique key: cookie names have no spaces
        if cookie.key or cookie.value:
            self.cookies[name] = cookie

    @property
    def streaming_content(self) -> Any:
        """The body. Middleware may replace it; then it is not parked, nor sent by sendfile."""
        return super().streaming_content

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        self._content = value
        self.file_to_stream = None
        StreamingHttpResponse.streaming_content.fset(self, value)

    def has_header(self, header: str) -> bool:
        """Whether the response has a header.

        An event stream or a range claims a Content-Encoding, so that GZipMiddleware skips it.
        """
        if header.lower() == "content-encoding" and (self._live or self.status_code == 206):
            if not self._live:  # a 200 would be compressed, so it varies (RFC 9110, 15.3.7)
                patch_vary_headers(self, ["Accept-Encoding"])
            return True
        return bool(super().has_header(header))

    def vento_body(self) -> Any:
        """The body of our Response; None if middleware has replaced it.

        Called in the greenlet of the view, and closes the view's database connection.
        """
        if self._content is not self._body:
            return None
        body = self._body.begin()
        if isinstance(body, SubscriptionBody):
            body.closes(self.close)
        return body

    def close(self) -> None:
        try:
            if self._window is not None:  # Django has replaced the file's own close() by this one
                Window.close(self._window)
        finally:
            super().close()


class _Body(Iterator[bytes]):
    """The body of `response`. It is made at the first step, since middleware may drop it."""

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


class _Cookie(Morsel[str]):
    """A cookie for Django, parsed from a Set-Cookie field.

    ``SimpleCookie.load`` would drop the whole field if it had an unknown attribute. Here the value,
    and attributes that http.cookies does not know, are kept as they are.
    """

    _FLAGS = ("httponly", "partitioned", "secure")
    _KNOWN = ("domain", "expires", "max-age", "path", "samesite", *_FLAGS)

    def __init__(self, field: str) -> None:
        super().__init__()
        pair, *attributes = (part.strip() for part in field.split(";"))
        name, equals, coded = pair.partition("=")
        if not equals:  # browsers take the text for the value of a cookie without a name
            name, coded = "", pair
        name, coded = name.strip(), coded.strip()
        value, _ = SimpleCookie().value_decode(coded)
        # unlike set(), this accepts any name
        self.__setstate__(  # type: ignore[attr-defined]
            {"key": name, "value": value, "coded_value": coded}
        )
        self._others = []
        for attribute in filter(None, attributes):
            key, _, said = attribute.partition("=")
            key, said = key.strip().lower(), said.strip()
            flag = key in self._FLAGS
            # http.cookies knows Partitioned since Python 3.14
            if key in self._KNOWN and key in self and (flag or said):
                self[key] = True if flag else said
            else:
                self._others.append(attribute)

    def OutputString(self, attrs: Container[str] | None = None) -> str:  # noqa: N802
        pair, _, known = super().OutputString(attrs).partition("; ")
        return "; ".join(filter(None, (pair, *self._others, known)))


def _in_view(body: Any) -> Any:
    """The body, in the context of its view if iterating it runs code of the application."""
    return _InView(body) if runs(body) else body


class _InView(Iterator[object]):
    """A body that runs in a copy of the context of its view, in any greenlet or thread.

    A Stream may iterate it in another greenlet or thread, and by then middleware may have reset
    what the view saw: the language, the time zone, and other ContextVars and Locals of asgiref.
    Changes that the body makes stay in the copy.

    Django keeps database connections by thread or greenlet. So the connections that the body opens
    are closed where it runs.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._items: Iterator[object] | None = None
        self._context = copy_context()
        self._home = self._thread = threading.get_ident()
        self._context.run(_take_locals, self._context)

    def __next__(self) -> object:
        try:
            return self._run(self._next)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        try:
            self._run(self._close)
        finally:
            self._release()

    def _next(self) -> object:
        if self._items is None:
            self._items = iter(self._body)
        return next(self._items)

    def _close(self) -> None:
        items: Any = self._items
        try:
            if items is not self._body and hasattr(items, "close"):
                items.close()
        finally:
            if hasattr(self._body, "close"):
                self._body.close()

    def _run(self, function: Callable[[], object]) -> object:
        here = threading.get_ident()
        if here != self._thread:
            self._thread = here
            self._context.run(_take_locals, self._context)
        return self._context.run(function)

    def _release(self) -> None:
        # a greenlet or thread of a pool may run another body later, which must find nothing of this
        _release(forget=self._home != threading.get_ident())


def _take_locals(context: Contextvars) -> None:
    """Give the current context its own values in Locals of asgiref, visible in this thread.

    A Local keeps its values in a ContextVar. Newer versions (3.12) show them only in the thread
    that set them, unless asgiref moves them. Older ones (3.8) keep them in a dict that all copies
    of a context share.
    """
    _restore_context(context)
    for var, value in context.items():
        if var.name == "asgiref.local" and isinstance(value, dict):
            var.set(value.copy())


def _release(*, forget: bool = False) -> None:
    """Close the database connections of this thread or greenlet, even persistent ones.

    Nobody else could use them while the stream runs. forget: whether to drop the connection
    objects as well, with everything that was set on them.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
            if forget:
                del connections[connection.alias]
