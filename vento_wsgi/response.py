"""Response: werkzeug's, with every body that can be streamed.

Text and bytes are sent as they are, with their Content-Length. A file becomes a
:class:`~vento_wsgi.bodies.files.File`, so that it can answer conditional requests and ranges. All
else is made into :class:`~vento_wsgi.bodies.sources.Chunks` here and into a Stream when the server
asks for it; HEAD, 204 and 304 close it untouched.

The body is always what ``response.response`` is when the headers are made, whatever middleware
has put there: nothing about a body is kept anywhere else. A body that was replaced is closed
with the response all the same, and the headers that described it are taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as WerkzeugResponse

from . import http_syntax as fields
from . import sse
from .bodies import files
from .bodies import sources as bodies
from .broker.body import SubscriptionBody
from .broker.subscription import Subscription
from .exceptions import BodyError
from .request import Request
from .streaming.environ import CONNECTION
from .streaming.options import DEFAULT, StreamOptions
from .streaming.pumps import cooperative
from .streaming.stream import Encoder, Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["EVENT_STREAM", "Response", "vary"]

EVENT_STREAM = sse.CONTENT_TYPE

_LOCATIONS = frozenset(("location", "content-location"))

_AS_IT_IS = ("", "identity")
"""Content-Encodings that leave the bytes of an event stream readable."""

_THE_SERVERS = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers"),
        *("proxy-authenticate", "proxy-authorization", "transfer-encoding", "upgrade"),
    )
)
"""Hop-by-hop fields, which PEP 3333 leaves to the server (RFC 9110, section 7.6.1)."""


class _Subscribed(bodies.Chunks):
    """The blocks of a subscription, which a server may send without iterating them."""

    __slots__ = ("subscription",)

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription.blocks(), sse.encode)
        self.subscription = subscription


class _NoBody(tuple[bytes, ...]):
    """No chunks, but something to close. Having a length, it is not chunked by any server."""

    close: Callable[[], None]


class Response(WerkzeugResponse):
    """A response with any body that ``ctx.stream`` takes.

    body: str, bytes, an iterable or iterator of these (of Event, too, in an event stream), or
        an object with ``read()``. Raises BodyError, a TypeError, on anything else.
    status: a code, or a code and a reason. headers: a mapping or pairs; hop-by-hop fields are
        dropped, since they are the server's to send. content_type: by default as `headers`
        say, else text/plain.

    An event stream gets the headers that it needs: Cache-Control, X-Accel-Buffering.
    """

    event_stream = False
    policies = DEFAULT
    """What its stream is promised; ``ctx.stream`` sets them."""

    code: Callable[[WSGIEnvironment], Callable[[], Encoder] | None] | None = None
    """What says, when all its headers are known, how its body is coded; ``compress`` sets it."""

    _encoder: Callable[[], Encoder] | None = None
    _given: bodies.Chunks | files.File | None = None
    """The body that it was made with: it is closed even if ``response`` is another one now."""
    _described: tuple[object, Mapping[str, str]] = None, {}
    """A body, and the headers that were set because of it."""
    _length: int | None = None  # in bytes, before it is coded
    _sent: files.Window | Iterator[bytes] | None = None
    """What is sent of a File, once the headers are made."""
    _closed = False
    _closings: tuple[Callable[[], Any], ...] = ()

    def __init__(
        self,
        body: object = b"",
        status: int | str | HTTPStatus = 200,
        headers: Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]] | None = None,
        content_type: str | None = None,
    ) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        self.event_stream = _names_events(self.headers.get("Content-Type", ""))
        if self.event_stream:
            self.headers.setdefault("Cache-Control", "no-cache")
            self.headers.setdefault("X-Accel-Buffering", "no")
            if isinstance(body, sse.Event):
                body = body.encode()
        if isinstance(body, Subscription) and not self.event_stream:
            raise BodyError("a subscription is an event stream: use ctx.sse(…)")
        if isinstance(body, (bytearray, memoryview)):
            body = bytes(body)
        if isinstance(body, (str, bytes)):
            self.set_data(bodies.encode(body))
            return
        if self.status_code == 200 and (file := files.File.of(body)) is not None:
            self.response = self._given = file
            self._described = file, file.headers
            self.headers["Content-Length"] = file.headers["Content-Length"]
            for name, value in file.headers.items():
                self.headers.setdefault(name, value)
        elif isinstance(body, Subscription):
            self.response = self._given = _Subscribed(body)
        else:
            self.response = self._given = bodies.Chunks(body, self._encode())

    def set_data(self, value: bytes | str) -> None:
        """Send text or bytes in place of the body."""
        value = value.encode() if isinstance(value, str) else value
        self._take_back()
        super().set_data(value)
        self._described = self.response, {"Content-Length": str(len(value))}

    # werkzeug's own would call its own set_data
    data = property(WerkzeugResponse.get_data, set_data)

    @property
    def is_file(self) -> bool:
        """Whether its body is an open file, which leaves by sendfile where the server can."""
        return isinstance(self.response, files.File) and self.response.descriptor is not None

    def promise(self, policies: StreamOptions) -> None:
        """Have the body sent under `policies`, as a Stream whatever it is. Raises ValueError."""
        policies.beat(event_stream=self.event_stream)
        self.policies = policies

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Have `func` called when the response is closed, behind those that were given before."""
        self._closings = (*self._closings, func)
        return func

    def close(self) -> None:
        """Close the body and run what ``call_on_close`` was given, once, whatever fails."""
        if self._closed:
            return
        self._closed = True
        kept: list[Any] = [self.response]
        if self._given is not self.response:
            kept.append(self._given)
        closings = [body.close for body in kept if hasattr(body, "close")]
        _close_all(iter([*closings, *self._closings]))

    def iter_encoded(self) -> Iterator[bytes]:
        return map(self._encode(), self.response)

    def _encode(self) -> Callable[[Any], bytes]:
        """What makes bytes of the items of its body."""
        return sse.encode if self.event_stream else bodies.encode

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body: Any = None
        try:
            body, status, headers = self.get_wsgi_response(environ)
            if isinstance(body, Stream):
                body.begin(start_response, status, headers)
            else:
                start_response(status, headers)
        except BaseException:
            (body if isinstance(body, Stream) else self).close()
            raise
        return body  # type: ignore[no-any-return]

    def get_wsgi_response(self, environ: WSGIEnvironment) -> Any:
        status, headers = self.head(environ)
        return self.get_app_iter(environ), status, headers

    def head(self, environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]]]:
        """The status and the headers with which this answers a request, before its body."""
        if not isinstance(self.response, bodies.Chunks):
            self._take_in()
        if isinstance(self.response, files.File):
            self._answer_with_file(environ, self.response)
        headers = self.headers
        if self.code is not None:
            self._length = _length(headers.get("Content-Length"))
            self._encoder = self.code(environ)
        names = {name.lower(): value for name, value in headers}
        if self._encoder is None:
            self._length = _length(names.get("content-length"))
        events = _names_events(names.get("content-type", "")) and (
            self._encoder is not None or names.get("content-encoding", "") in _AS_IT_IS
        )
        if events != self.event_stream:
            self._be_events(events)
        has_content = self._has_content()
        if self.is_sequence or not has_content or not _LOCATIONS.isdisjoint(names):
            headers = self.get_wsgi_headers(environ)
        if not has_content:
            headers.pop("Content-Type", None)
        pairs = list(headers)
        if not _THE_SERVERS.isdisjoint(names):
            pairs = [pair for pair in pairs if pair[0].lower() not in _THE_SERVERS]
        # after start_response it is too late: a server may have taken a part of them
        fields.check(self.status, pairs)
        return self.status, pairs

    def _take_in(self) -> None:
        """Make a body of ours of whatever ``response`` is now."""
        if self.is_sequence:
            self.direct_passthrough = False
        if self.response is not self._described[0]:
            self._take_back()
            if self.is_sequence:
                # the length of what was there before must not cut what is there now
                length = str(sum(map(len, self.iter_encoded())))
                if self.response and self.headers.get("Content-Length", length) != length:
                    self.headers["Content-Length"] = length
        is_text = self.is_sequence and self.policies is DEFAULT
        if not (is_text or isinstance(self.response, files.File)):
            self.response = bodies.Chunks(self.response, self._encode())

    def _answer_with_file(self, environ: WSGIEnvironment, file: files.File) -> None:
        """Send what is asked of a file, or all of it if its status is not 200 any more."""
        if self.status_code == 200:
            self.status_code, self._sent = files.answer(environ, self.headers, file, self.close)
            return
        self._sent = files.Window(file, 0, file.size, self.close)
        if self.status_code >= 400:  # it is an error page, and not what was asked for
            self._take_back(but="Content-Length")

    def _take_back(self, but: str = "") -> None:
        """Remove the headers that described a body, save those that were changed since."""
        for name, value in self._described[1].items():
            if name != but and self.headers.get(name) == value:
                del self.headers[name]

    def _be_events(self, events: bool) -> None:
        """Middleware may have changed the type, or put a coding around the events."""
        self.event_stream = events
        if not events and not isinstance(self.policies.heartbeat, tuple):
            self.policies = replace(self.policies, heartbeat=None)

    def _has_content(self) -> bool:
        return self.status_code >= 200 and self.status_code not in (204, 304)

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD" or not self._has_content():
            return self._no_body()
        body = self.response
        if isinstance(body, bodies.Chunks):
            # in a coding each client's bytes depend on what it was sent before: none to share
            connection = environ.get(CONNECTION)
            parks = connection is not None and connection.can_park
            if (
                parks
                and self._encoder is None
                and self.event_stream
                and isinstance(body, _Subscribed)
            ):
                stream = partial(self._stream, environ, body)
                # it lasts, and should not hold the response and its request for as long
                closings = [close for close in self._closings if not _closes_nothing(close)]
                close = partial(_close_all, iter(closings)) if closings else None
                return SubscriptionBody(body.subscription, stream, close, environ, self.policies)
            return self._stream(environ, body)
        if not isinstance(body, files.File):
            return super().get_app_iter(environ)
        if self._sent is None:
            return self._no_body()
        if not isinstance(self._sent, files.Window):
            return self._stream(environ, self._sent)
        if (window := self.for_sendfile(environ)) is not None:
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](window, bodies.READ_SIZE)
            return wrapped
        return self._stream(environ, bodies.Chunks(self._sent))

    def for_sendfile(self, environ: WSGIEnvironment) -> files.Window | None:
        """What is sent, if it is left to the server's wsgi.file_wrapper; the head comes first."""
        body = self.response
        if not isinstance(body, files.File) or not isinstance(self._sent, files.Window):
            return None
        # a Stream has policies; and without our worker gevent's sendfile reads 8 KiB at a time
        if self.policies is not DEFAULT or self._encoder is not None:
            return None
        if cooperative() and CONNECTION not in environ:
            return None
        return self._sent if files.offers_sendfile(environ, body) else None

    def _no_body(self) -> _NoBody:
        body = _NoBody()
        body.close = self.close
        return body

    def _stream(self, environ: WSGIEnvironment, chunks: Iterator[bytes]) -> Stream:
        return Stream(
            chunks,
            self.close,
            environ,
            event_stream=self.event_stream,
            length=self._length,
            waits=not isinstance(self.response, files.File),
            options=self.policies,
            encoder=None if self._encoder is None else self._encoder(),
        )


@lru_cache(maxsize=64)  # an application has a few
def _names_events(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == EVENT_STREAM


def _length(value: str | None) -> int | None:
    """A Content-Length in bytes. Raises ValueError if it is no number (RFC 9110, section 8.6)."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"a Content-Length is a number of bytes, not {value!r}")
    return int(value)


def _close_all(closings: Iterator[Callable[[], object]]) -> None:
    for close in closings:
        try:
            close()
        finally:  # so that of several errors each is the context of the next
            _close_all(closings)


def _closes_nothing(close: Callable[[], object]) -> bool:
    """Whether it closes a request, of which no files were read and none will be."""
    request = getattr(close, "__self__", None)
    return isinstance(request, Request) and "files" not in vars(request)


def vary(headers: Headers, *names: str) -> None:
    """Say in a response that it depends on these headers of the request, too."""
    present = [name.strip() for field in headers.getlist("Vary") for name in field.split(",")]
    known = {name.lower() for name in present}
    if "*" not in known:
        headers["Vary"] = ", ".join([*present, *(n for n in names if n.lower() not in known)])
