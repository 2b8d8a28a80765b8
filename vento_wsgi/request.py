"""Request: werkzeug's, with the body readers as methods and a body that can be read as it comes.

A body is read once, by one reader with three bounds: the Content-Length, the server's own end of
input ("wsgi.input_terminated", for chunked bodies), and `max_content_length`. What a handler does
not read stays with the server, which discards it or closes the connection.
"""

from __future__ import annotations

import binascii
import io
import json
import re
import string
from collections.abc import Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import quote

from werkzeug.datastructures import IfRange, ImmutableMultiDict
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)
from werkzeug.formparser import FormDataParser
from werkzeug.http import unquote_etag
from werkzeug.urls import uri_to_iri
from werkzeug.utils import cached_property
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wsgi import get_content_length, get_host

from . import charsets, http_syntax
from .bodies.sources import READ_SIZE

if TYPE_CHECKING:
    from datetime import datetime

    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.datastructures import Authorization

__all__ = ["Request"]

_QUERY = string.ascii_letters + string.digits + string.punctuation
"""Characters of a query that are not percent-encoded."""


def _arrived(source: Any, size: int) -> bytes:
    """At least one byte and at most `size`, without waiting for `size`; b"" at the end.

    gunicorn's Body waits for all bytes that it was asked for. So it is asked for one byte, and
    then for what its buffers hold. Other inputs have read1(), or they wait.
    """
    if hasattr(source, "read1"):
        return bytes(source.read1(size))
    try:
        held = source.buf.tell()
        reader: Any = source.reader
        _waiting(reader)
    except AttributeError:
        return bytes(source.read(size))
    if held:
        return bytes(source.read(min(size, held)))
    try:
        first: bytes = reader.read(1)
        held = min(size - 1, _waiting(reader))
        return first + reader.read(held) if first and held else first
    except Exception:
        source.failed = True  # has gunicorn close: where the next request starts is unknown
        raise


def _waiting(reader: Any) -> int:
    buffer = reader.buf if hasattr(reader, "buf") else reader.unreader.buf
    return int(buffer.tell())


class _Input(io.RawIOBase):
    """The request's body: a read gives what has come, and b"" only at its true end."""

    def __init__(self, request: Request) -> None:
        environ = request.environ
        self._source: Any = environ["wsgi.input"]
        self._request = request
        self._length = get_content_length(environ)
        self._taken = 0
        self._ended = self._length is None and not environ.get("wsgi.input_terminated")
        self._failure: HTTPException | None = None
        self._check(self._length or 0)

    def _check(self, size: int) -> None:
        limit = self._request.max_content_length
        if limit is not None and size > limit:
            raise RequestEntityTooLarge(f"A request body may have {limit} bytes at most.")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._failure is None:
            try:
                return self._readinto(buffer)
            except HTTPException as error:
                self._failure = error
        raise self._failure  # at each read: a broken body must not look whole

    def _readinto(self, buffer: Any) -> int:
        size = len(buffer)
        if self._length is not None:
            size = min(size, self._length - self._taken)
        if self._ended or size == 0:
            return 0
        try:
            data = _arrived(self._source, size)
        except HTTPException:  # StreamWorker raises them, such as a 408
            raise
        except Exception as error:  # servers have their own exceptions for bad chunks
            raise ClientDisconnected(f"The request's body broke off: {error}") from error
        if not data:
            self._ended = True
            if self._length is not None:
                raise ClientDisconnected(
                    f"The request's body ended after {self._taken} of {self._length} bytes."
                )
            return 0
        self._taken += len(data)
        self._check(self._taken)
        buffer[: len(data)] = data
        return len(data)


MAX_SLOPPY = 100_000
"""A form with more percent signs must escape them all: repairing one costs 90 bytes of memory."""

_NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
"""A percent sign that begins no escape. It means itself (WHATWG URL, percent-decode)."""


class _Forms(FormDataParser):
    """werkzeug's parser of forms. Urlencoded forms have the limits of multipart forms, too."""

    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: dict[str, str] | None = None,
    ) -> Any:
        if mimetype != "application/x-www-form-urlencoded":
            return super().parse(stream, mimetype, content_length, options)
        data, most = stream.read(), self.max_form_parts
        if most is not None and data.count(b"&") >= most:
            raise RequestEntityTooLarge(f"A form may have {most} fields at most.")
        if data.count(b"%") <= MAX_SLOPPY:
            data = _NO_ESCAPE.sub(b"%25", data)
        elif _NO_ESCAPE.search(data):
            raise BadRequest("The form has a percent sign that begins no escape.")
        pairs = (field.partition(b"=") for field in data.split(b"&") if field)
        form = self.cls([(_unquoted(name), _unquoted(value)) for name, _, value in pairs])
        return stream, form, self.cls()


def _unquoted(data: bytes) -> str:
    """A name or a value of an urlencoded form as text. Bytes that are not UTF-8 become U+FFFD.

    Quoted-printable differs only in its escape character, and binascii decodes it quickly. For a
    body of 16 MiB urllib needs seconds and hundreds of megabytes.
    """
    data = data.replace(b"+", b" ")
    if b"%" in data:
        data = binascii.a2b_qp(data.replace(b"=", b"=3D").replace(b"%", b"="))
    return data.decode(errors="replace")


class Request(WerkzeugRequest):
    """The request of a handler. Reading more than `max_content_length` bytes is a 413.

    A form has up to ``max_form_parts`` fields and files, 1,000 by default. A header field that
    cannot be parsed counts as absent where RFC 9110 says to ignore it.
    """

    form_data_parser_class = _Forms
    max_form_memory_size = None  # of one field: `max_content_length` limits all of them

    def __init__(self, environ: WSGIEnvironment, *args: Any, **options: Any) -> None:
        super().__init__(environ, *args, **options)
        if not self.query_string.isascii():  # some clients do not percent-encode
            self.query_string = quote(self.query_string, safe=_QUERY).encode()

    @cached_property
    def host(self) -> str:
        """The host and port of the URL. Raises BadRequest if they are not valid."""
        host = get_host(self.environ, self.trusted_hosts)
        if "xn--" in host:
            try:
                uri_to_iri(f"//{host}")
            except UnicodeError as error:
                raise BadRequest("The Host is not an international domain name.") from error
        return host

    @cached_property
    def authorization(self) -> Authorization | None:
        try:
            return super().authorization
        except ValueError:  # such as Basic without Base64
            return None

    @cached_property
    def if_modified_since(self) -> datetime | None:
        return http_syntax.date(self.headers.get("If-Modified-Since"))

    @cached_property
    def if_unmodified_since(self) -> datetime | None:
        return http_syntax.date(self.headers.get("If-Unmodified-Since"))

    @cached_property
    def if_range(self) -> IfRange:
        value = self.headers.get("If-Range")
        if (date := http_syntax.date(value)) is not None:
            return IfRange(date=date)
        return IfRange(unquote_etag(value)[0])

    @cached_property
    def date(self) -> datetime | None:
        return http_syntax.date(self.headers.get("Date"))

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as a raw file object: a read returns the bytes that are there, if any are."""
        return cast("IO[bytes]", _Input(self))

    def chunks(self, size: int = READ_SIZE) -> Iterator[bytes]:
        """The body as it comes, in pieces of 1 to `size` bytes, also while a response streams.

        Raises RequestEntityTooLarge (413), at once if the Content-Length is over the limit, else
        when the bytes are; ClientDisconnected (400) if the body breaks off.
        """
        return iter(partial(self.stream.read, size), b"")

    def text(self) -> str:
        """The body as text in its charset, by default UTF-8. Raises 400 or 415 if it is not."""
        charset = self.mimetype_params.get("charset", "utf-8")
        if (codec := charsets.codec(charset)) is None:
            raise UnsupportedMediaType(f"There is no charset {charset!r} on the web.")
        data = self.get_data()
        try:
            return data.decode("utf-8-sig" if codec == "utf-8" else codec)
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"The body is not {charset}: {error.reason} at byte {error.start}."
            ) from error

    def json(self) -> Any:
        """The body as JSON (RFC 8259), of any content type. The 400 says where it is wrong."""
        text = self.text()
        try:
            return json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise BadRequest(
                f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
            ) from error
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not JSON: {error}.") from error

    def form(self) -> ImmutableMultiDict[str, str]:  # type: ignore[override]
        """The fields of a form; its files are in ``files``."""
        self._load_form_data()
        return self._form

    def _load_form_data(self) -> None:
        # werkzeug stores the fields in __dict__["form"], where they would hide form()
        if "_form" not in self.__dict__:
            super()._load_form_data()
            self._form: ImmutableMultiDict[str, str] = self.__dict__.pop("form")

    @property
    def has_files(self) -> bool:
        """Whether files of a form were read, which close() closes."""
        return "files" in self.__dict__

    @property
    def values(self) -> Any:
        raise AttributeError("use args for the query and form() for the body")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
