"""Response: werkzeug's, with every body that can be streamed.

Text and bytes are sent as they are, with their Content-Length. A file becomes a
:class:`~vento_wsgi.files.File`, so that it can answer conditional requests and ranges. All
else is made into :class:`~vento_wsgi.body.Chunks` here and into a Stream when the server
asks for it; HEAD, 204 and 304 close it untouched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as WerkzeugResponse

from . import body as bodies
from . import files, sse
from .broker.feed import Feed
from .broker.subscription import Subscription
from .coding import CodedStream, Encoder
from .exceptions import BodyError
from .keys import DRAIN, PARK
from .policies import DEFAULT, Policies
from .pump import cooperative
from .request import Request
from .stream import Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["EVENT_STREAM", "Response", "vary"]

EVENT_STREAM = sse.CONTENT_TYPE

_FIELDS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*(?:\n|\Z))*")
"""Field lines as RFC 9110, section 5, has them."""

_LOCATIONS = ("location", "content-location")

_THE_SERVERS = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers"),
        *("proxy-authenticate", "proxy-authorization", "transfer-encoding", "upgrade"),
    )
)
"""Hop-by-hop fields, which PEP 3333 leaves to the server (RFC 9110, section 7.6.1)."""


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
    _measure: int | None = None  # its length as it is before it is coded
    _subscription: Subscription | None = None
    _file: files.File | None = None
    _sent: files.Window | Iterator[bytes] | None = None
    _closed = False

    def __init__(
        self,
        body: object = b"",
        status: int | str | HTTPStatus = 200,
        headers: Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]] | None = None,
        content_type: str | None = None,
    ) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.event_stream = kind == EVENT_STREAM
        if self.event_stream:
            self.headers.setdefault("Cache-Control", "no-cache")
            self.headers.setdefault("X-Accel-Buffering", "no")
            if isinstance(body, sse.Event):
                body = body.encode()
        if isinstance(body, Subscription):
            if not self.event_stream:
                raise BodyError("a subscription is an event stream: use ctx.sse(…)")
            self._subscription, body = body, body.blocks()
        if isinstance(body, (bytearray, memoryview)):
            body = bytes(body)
        if isinstance(body, (str, bytes)):
            self.set_data(bodies.encode(body))
            return
        # werkzeug may then neither collect the body nor encode it a second time
        self.direct_passthrough = True
        if self.status_code == 200 and (file := files.File.of(body)) is not None:
            self._file = file
            self.response = file.body
            self.headers["Content-Length"] = str(file.size)
            for name, value in file.headers.items():
                self.headers.setdefault(name, value)
        else:
            encode = sse.encode if self.event_stream else bodies.encode
            self.response = bodies.Chunks(body, encode)

    @property
    def is_file(self) -> bool:
        """Whether its body is an open file, which leaves by sendfile where the server can."""
        return self._file is not None and self._file.descriptor is not None

    def promise(self, policies: Policies) -> None:
        """Have the body sent under `policies`, as a Stream whatever it is. Raises ValueError."""
        policies.beat(event_stream=self.event_stream)
        self.policies = policies
        if self.is_sequence:
            self.response = bodies.Chunks(self.get_data())
            self.direct_passthrough = True

    def close(self) -> None:
        """Close the body and run what ``call_on_close`` was given, once, whatever fails."""
        if self._closed:
            return
        self._closed = True
        closings = [*self._on_close]
        if hasattr(self.response, "close"):
            closings.insert(0, self.response.close)
        _close_all(iter(closings))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body: Any = None
        try:
            body, status, headers = self.get_wsgi_response(environ)
            if isinstance(body, Stream):
                body.begin(environ, start_response, status, headers)
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
        if self._file is not None and self.status_code == 200:
            self.status_code, self._sent = files.answer(
                environ, self.headers, self._file, self.close
            )
        elif self._file is not None:
            self._sent = files.Window(self._file, 0, self._file.size, self.close)
        if self.code is not None:
            self._measure = self._length()
            self._encoder = self.code(environ)
        headers = self.headers
        if not isinstance(self.response, bodies.Chunks) or self._is_special():
            headers = self.get_wsgi_headers(environ)
        if not self._has_content():
            headers.pop("Content-Type", None)
        fields = [field for field in headers if field[0].lower() not in _THE_SERVERS]
        # after start_response it is too late: a server may have taken a part of them
        if not _FIELDS.fullmatch("\n".join(map(": ".join, fields))):
            wrong = next(
                name for name, value in fields if not _FIELDS.fullmatch(f"{name}: {value}")
            )
            raise ValueError(f"the header {wrong!r} cannot be sent: its name or value is not legal")
        return self.status, fields

    def _is_special(self) -> bool:
        """Whether werkzeug has something to say about the headers of a stream."""
        return not self._has_content() or any(
            name.lower() in _LOCATIONS for name, _ in self.headers
        )

    def _has_content(self) -> bool:
        return self.status_code >= 200 and self.status_code not in (204, 304)

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD" or not self._has_content():
            return self._no_body()
        if isinstance(self.response, bodies.Chunks):
            # in a coding each client's bytes depend on what it was sent before: none to share
            shares = PARK in environ and self._encoder is None
            if shares and self._subscription is not None:
                stream = partial(self._stream, environ, self.response)
                # it lasts, and should not hold the response and its request for as long
                closings = [close for close in self._on_close if not _closes_nothing(close)]
                close = partial(_close_all, iter(closings)) if closings else None
                return Feed(self._subscription, stream, close, environ, self.policies)
            return self._stream(environ, self.response)
        if self._file is None:
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
        if self._file is None or not isinstance(self._sent, files.Window):
            return None
        # a Stream has policies; and without our worker gevent's sendfile reads 8 KiB at a time
        if self.policies is not DEFAULT or self._encoder is not None:
            return None
        if cooperative() and DRAIN not in environ:
            return None
        return self._sent if files.offers_sendfile(environ, self._file) else None

    def _length(self) -> int | None:
        for name, value in self.headers:
            if name.lower() == "content-length":
                return int(value)
        return None

    def _no_body(self) -> _NoBody:
        body = _NoBody()
        body.close = self.close
        return body

    def _stream(self, environ: WSGIEnvironment, chunks: Iterator[bytes]) -> Stream:
        kind = Stream if self._encoder is None else partial(CodedStream, self._encoder())
        return kind(
            chunks,
            self.close,
            environ,
            event_stream=self.event_stream,
            length=self._length() if self._encoder is None else self._measure,
            waits=self._file is None,
            policies=self.policies,
        )


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
