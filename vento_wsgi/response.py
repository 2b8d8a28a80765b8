"""Response: werkzeug's, with every body that can be streamed.

Text and bytes are sent as they are, with their Content-Length. A file becomes a
:class:`~vento_wsgi.bodies.files.File`, which answers conditional requests and ranges. Any other
body becomes :class:`~vento_wsgi.bodies.sources.Chunks` here, and a Stream when the server asks for
it; HEAD, 204 and 304 close it untouched.

The body that is sent is ``response.response`` at the time when the head is made: middleware may
replace it, and nothing about a body is kept elsewhere. A body that was replaced is closed with
the response, and the headers that described it are removed.

The usual response takes a short way: `_is_plain` tells whether a class leaves the methods of
werkzeug's that are skipped there as they are. A class that overrides one has it called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as WerkzeugResponse

from . import http_syntax, sse
from .bodies import files, sources
from .exceptions import BodyError
from .request import Request
from .streaming.environ import CONNECTION
from .streaming.options import DEFAULT, StreamOptions
from .streaming.pumps import cooperative
from .streaming.stream import Encoder, Stream
from .werkzeug_hooks import CAN_SET_UP, set_up

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["EVENT_STREAM", "Response", "vary"]

EVENT_STREAM = sse.CONTENT_TYPE

_LOCATIONS = frozenset(("location", "content-location"))

_READABLE = ("", "identity")
"""Content-Encodings that leave the bytes of an event stream readable."""

_OF_EVENTS = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))
"""Headers of an event stream: it is read once, and proxies such as nginx pass it on at once."""

_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers"),
        *("proxy-authenticate", "proxy-authorization", "transfer-encoding", "upgrade"),
    )
)
"""Fields that PEP 3333 leaves to the server (RFC 9110, section 7.6.1)."""

_SKIPPED = (
    *("__init__", "get_app_iter", "get_wsgi_headers", "headers", "iter_encoded", "set_data"),
    *("automatically_set_content_length", "direct_passthrough", "status", "status_code"),
)
"""What of werkzeug's Response the short way does without."""


class _Whole(list[bytes]):
    """All bytes of a body, and something to close. Servers see by len() that there are no more."""

    __slots__ = ("close",)

    close: Callable[[], object]


class Response(WerkzeugResponse):
    """A response with any body that ``ctx.stream`` takes.

    body: str, bytes, an iterable or iterator of these (of Event, too, in an event stream), or
        an object with ``read()``. Raises BodyError, a TypeError, on anything else.
    status: a code, or a code and a reason. headers: a mapping or pairs; hop-by-hop fields are
        dropped, since only the server may send them. content_type: by default as `headers`
        say, else text/plain.

    An event stream gets the headers that it needs: Cache-Control, X-Accel-Buffering.
    """

    event_stream = False
    options = DEFAULT
    """The options of its stream; see :meth:`with_options`."""

    choose_encoder: Callable[[WSGIEnvironment], Callable[[], Encoder] | None] | None = None
    """Called with environ when all headers are known; returns what makes the encoder of the body,
    or None. ``compress`` sets it.
    """

    answers: Request | None = None
    """The request that it answers, if anything used that; its files are closed with this."""

    _is_plain = CAN_SET_UP
    _encoder: Callable[[], Encoder] | None = None
    _given: sources.Chunks | files.File | None = None
    """The body that it was made with, which is closed even if ``response`` is another one now."""
    _described: tuple[object, Mapping[str, str]] = None, {}
    """A body, and the headers that were set because of it."""
    _length: int | None = None  # in bytes, before it is coded
    _sent: files.Window | Iterator[bytes] | None = None
    """What is sent of a File, once the headers are made."""
    _closed = False
    _closings: tuple[Callable[[], Any], ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        others = (vars(base) for base in cls.__mro__ if base not in Response.__mro__)
        changed = any(name in names for names in others for name in _SKIPPED)
        cls._is_plain = CAN_SET_UP and not changed

    def __init__(
        self,
        body: object = b"",
        status: int | str | HTTPStatus = 200,
        headers: Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]] | None = None,
        content_type: str | None = None,
    ) -> None:
        fields: list[tuple[str, str]] | None = None
        if self._is_plain and headers is None and type(content_type) is str and type(status) is int:
            fields = [*_fields(content_type)]
            self.event_stream = len(fields) > 1
            set_up(self, status, fields)
        else:
            super().__init__(status=status, headers=headers, content_type=content_type)
            self._add_fields()
        if self.event_stream and isinstance(body, sse.Event):
            body = body.encode()
        if not isinstance(body, (str, bytes, bytearray, memoryview)):
            self._set_body(body)
        elif fields is not None:
            self.response = [data := sources.encode(body)]
            length = str(len(data))
            fields.append(("Content-Length", length))
            self._described = self.response, {"Content-Length": length}
        else:
            self.set_data(sources.encode(body))

    def _add_fields(self) -> None:
        """Add the headers that an event stream needs, unless they are there."""
        names = {name.lower(): value for name, value in self.headers}
        self.event_stream = _names_events(names.get("content-type", ""))
        for name, value in _OF_EVENTS if self.event_stream else ():
            if name.lower() not in names:
                self.headers.add(name, value)

    def _set_body(self, body: Any) -> None:
        if type(body) in sources.ITERABLES:
            self.response = self._given = sources.Chunks(body, self._encode())
        elif isinstance(body, sources.EventBody):
            if not self.event_stream:
                raise BodyError("a subscription is an event stream: use ctx.sse(…)")
            self.response = self._given = body.as_chunks()
        elif self.status_code == 200 and (file := files.File.of(body)) is not None:
            self.response = self._given = file
            self._described = file, file.headers
            self.headers["Content-Length"] = file.headers["Content-Length"]
            for name, value in file.headers.items():
                self.headers.setdefault(name, value)
        elif type(body) is sources.Chunks:
            self.response = self._given = body
        else:
            self.response = self._given = sources.Chunks(body, self._encode())

    def set_data(self, value: bytes | str) -> None:
        """Send text or bytes in place of the body."""
        value = value.encode() if isinstance(value, str) else value
        self._take_back()
        super().set_data(value)
        self._described = self.response, {"Content-Length": str(len(value))}

    # werkzeug's property calls werkzeug's set_data
    data = property(WerkzeugResponse.get_data, set_data)

    @property
    def is_file(self) -> bool:
        """Whether its body is an open file, which the server may send by sendfile."""
        return isinstance(self.response, files.File) and self.response.descriptor is not None

    def with_options(self, options: StreamOptions) -> Response:
        """Send the body as a Stream with `options`, whatever it is. Returns the response itself.

        Raises ValueError if the heartbeat does not say what to send.
        """
        options.beat(event_stream=self.event_stream)
        self.options = options
        return self

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Have `func` called when the response is closed, after those that were given before."""
        self._closings = (*self._closings, func)
        return func

    def close(self) -> None:
        """Close the body and run what ``call_on_close`` was given, once, whatever fails."""
        if self._closed:
            return
        self._closed = True
        body, given = self.response, self._given
        closings = [body.close] if hasattr(body, "close") else []
        if given is not None and given is not body:
            closings.append(given.close)
        closings += self._closings
        if self.answers is not None:
            closings.append(self.answers.close)
        if closings:
            _close_all(iter(closings))

    def closing_apart(self) -> Callable[[], object] | None:
        """See :class:`~vento_wsgi.bodies.sources.Sender`; the body is closed by other means."""
        closings = [*self._closings]
        if self.answers is not None and self.answers.has_files:
            closings.append(self.answers.close)
        return partial(_close_all, iter(closings)) if closings else None

    def iter_encoded(self) -> Iterator[bytes]:
        return map(self._encode(), self.response)

    def _encode(self) -> Callable[[Any], bytes]:
        """Makes bytes of an item of its body."""
        return sse.encode if self.event_stream else sources.encode

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
        """The status and the headers of the answer to a request. The body is taken after it."""
        if not isinstance(self.response, sources.Chunks):
            self._take_in()
            if isinstance(self.response, files.File):
                self._answer_with_file(environ, self.response)
        headers = self.headers
        if self.choose_encoder is not None:
            self._length = _length(headers.get("Content-Length"))
            self._encoder = self.choose_encoder(environ)
        pairs = list(headers)
        names = {name.lower(): value for name, value in pairs}
        if self._encoder is None:
            self._length = _length(names.get("content-length"))
        events = _names_events(names.get("content-type", "")) and (
            self._encoder is not None or names.get("content-encoding", "") in _READABLE
        )
        if events != self.event_stream:
            self._be_events(events)
        has_content = self._has_content()
        if not (
            self._is_plain
            and has_content
            and ("content-length" in names or not self.is_sequence)
            and _LOCATIONS.isdisjoint(names)
        ):
            headers = self.get_wsgi_headers(environ)
            if not has_content:
                headers.pop("Content-Type", None)
            pairs = list(headers)
        if not _HOP_BY_HOP.isdisjoint(names):
            pairs = [pair for pair in pairs if pair[0].lower() not in _HOP_BY_HOP]
        status = self.status
        # here an error is still answered: a server may send the head in start_response
        http_syntax.check(status, pairs)
        return status, pairs

    def _take_in(self) -> None:
        """Make one of our bodies of what ``response`` is now, and describe it."""
        known = self.is_sequence
        if known:
            self.direct_passthrough = False
        if self.response is not self._described[0]:
            self._take_back()
            if known:
                # the length of another body must not cut this one
                length = str(sum(map(len, self.iter_encoded())))
                if self.response and self.headers.get("Content-Length", length) != length:
                    self.headers["Content-Length"] = length
        if not ((known and self.options is DEFAULT) or isinstance(self.response, files.File)):
            self.response = sources.Chunks(self.response, self._encode())

    def _answer_with_file(self, environ: WSGIEnvironment, file: files.File) -> None:
        """Send what the request asks of a file, or all of it if the status is not 200 any more."""
        if self.status_code == 200:
            self.status_code, self._sent = files.answer(environ, self.headers, file, self.close)
            return
        self._sent = files.Window(file, 0, file.size, self.close)
        if self.status_code >= 400:  # an error page has no validators or ranges of its own
            self._take_back(but="Content-Length")

    def _take_back(self, but: str = "") -> None:
        """Remove the headers that described a body, except those that were changed since."""
        for name, value in self._described[1].items():
            if name != but and self.headers.get(name) == value:
                del self.headers[name]

    def _be_events(self, events: bool) -> None:
        """Middleware may have changed the type, or put a coding around the events."""
        self.event_stream = events
        if not events and not isinstance(self.options.heartbeat, tuple):
            self.options = replace(self.options, heartbeat=None)

    def _has_content(self) -> bool:
        code = self.status_code
        return code >= 200 and code != 204 and code != 304

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD" or not self._has_content():
            return self._whole([])
        body: Any = self.response
        if self._is_plain and type(body) is list and len(body) == 1:
            return self._whole(self.iter_encoded())
        if isinstance(body, sources.Chunks):
            # in a coding the bytes of a client depend on what it got before: they are its own
            if self.event_stream and self._encoder is None:
                return body.as_wsgi(environ, self)
            return self.as_stream(environ, body)
        if not isinstance(body, files.File):
            return super().get_app_iter(environ)
        if self._sent is None:
            return self._whole([])
        if not isinstance(self._sent, files.Window):
            return self.as_stream(environ, self._sent)
        if (window := self.for_sendfile(environ)) is not None:
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](window, sources.READ_SIZE)
            return wrapped
        return self.as_stream(environ, sources.Chunks(self._sent))

    def for_sendfile(self, environ: WSGIEnvironment) -> files.Window | None:
        """What the server's wsgi.file_wrapper is to send, if it is; ``head()`` goes before."""
        body = self.response
        if not isinstance(body, files.File) or not isinstance(self._sent, files.Window):
            return None
        # a Stream keeps the options; and gevent's sendfile, without our worker, reads by 8 KiB
        if self.options is not DEFAULT or self._encoder is not None:
            return None
        if cooperative() and CONNECTION not in environ:
            return None
        return self._sent if files.offers_sendfile(environ, body) else None

    def _whole(self, data: Iterable[bytes]) -> _Whole:
        body = _Whole(data)
        body.close = self.close
        return body

    def as_stream(self, environ: WSGIEnvironment, chunks: Iterator[bytes]) -> Stream:
        """The Stream that sends `chunks`, with the options of this response."""
        return Stream(
            chunks,
            self.close,
            environ,
            event_stream=self.event_stream,
            length=self._length,
            waits=not isinstance(self.response, files.File),
            options=self.options,
            encoder=None if self._encoder is None else self._encoder(),
        )


@lru_cache(maxsize=64)
def _fields(content_type: str) -> tuple[tuple[str, str], ...]:
    """The headers of a response of which no others are known. Raises ValueError, as werkzeug."""
    fields = tuple(Headers([("Content-Type", content_type)]))
    return (*fields, *_OF_EVENTS) if _names_events(content_type) else fields


@lru_cache(maxsize=64)
def _names_events(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == EVENT_STREAM


def _length(value: str | None) -> int | None:
    """A Content-Length in bytes (RFC 9110, section 8.6). Raises ValueError if it is not one."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"a Content-Length is a number of bytes, not {value!r}")
    return int(value)


def _close_all(closings: Iterator[Callable[[], object]]) -> None:
    for close in closings:
        try:
            close()
        finally:  # of several errors, each is the context of the next
            _close_all(closings)


def vary(headers: Headers, *names: str) -> None:
    """Say in a response that it depends on these headers of the request, too."""
    present = [name.strip() for field in headers.getlist("Vary") for name in field.split(",")]
    known = {name.lower() for name in present}
    if "*" not in known:
        headers["Vary"] = ", ".join([*present, *(n for n in names if n.lower() not in known)])
