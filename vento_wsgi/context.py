"""Context: the argument of a handler, with the request and the methods that make responses."""

from __future__ import annotations

import errno
import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.datastructures import EnvironHeaders, Headers, MultiDict
from werkzeug.exceptions import BadRequest, Forbidden, NotFound
from werkzeug.http import dump_options_header
from werkzeug.security import safe_join
from werkzeug.urls import iri_to_uri
from werkzeug.utils import cached_property
from werkzeug.wrappers import Response as WerkzeugResponse

from . import sse
from .bodies.files import open_file
from .bodies.sources import EventBody
from .request import Request
from .response import EVENT_STREAM, Response
from .streaming.environ import CONNECTION
from .streaming.options import StreamOptions

if TYPE_CHECKING:
    from typing import TypedDict

    from _typeshed.wsgi import WSGIEnvironment
    from typing_extensions import Unpack

    from .streaming.options import DrainKind
    from .streaming.record import Ending

    class StreamOptionArguments(TypedDict, total=False):
        """The fields of StreamOptions, as keyword arguments."""

        heartbeat: tuple[bytes, float] | float | None
        deadline: float | None
        send_timeout: float | None
        flush: str
        drain: DrainKind | None
        on_end: Callable[[Ending], object] | None

    StreamOptionsDict = StreamOptionArguments

__all__ = ["Context"]

HeadersLike = Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]] | None

BINARY = "application/octet-stream"

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

MAX_EVENT_ID = 1024
"""Characters of a Last-Event-ID. Ids are short, and each is looked up in a log."""


_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG)
"""Errors of open() for paths that lead nowhere. FreeBSD has EMLINK for links."""


class Context:
    """One request on its way through the application.

    request: the Request. params: the parameters of the path, converted.
    state: a namespace in which middleware can leave things for handlers.
    """

    response_class = Response

    def __init__(self, environ: WSGIEnvironment, max_content_length: int | None = None) -> None:
        self.environ = environ
        self.params: Mapping[str, Any] = {}
        self._max_content_length = max_content_length
        self.finishers: Sequence[Callable[[WerkzeugResponse], object]] = ()

    @cached_property
    def request(self) -> Request:
        request = Request(self.environ)
        request.max_content_length = self._max_content_length
        return request

    @cached_property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace()

    @property
    def method(self) -> str:
        """The request's method, as it was sent. Its case counts (RFC 9110, section 9.1)."""
        return str(self.environ["REQUEST_METHOD"])

    @property
    def path(self) -> str:
        """The path below the application's root, decoded, with a leading slash."""
        return self.request.path

    @property
    def url(self) -> str:
        """The URL of the request, with scheme, host and query."""
        return self.request.url

    @property
    def query(self) -> MultiDict[str, str]:
        """The fields of the query: ``ctx.query["q"]``, ``ctx.query.getlist("tag")``."""
        return self.request.args

    @property
    def headers(self) -> EnvironHeaders:
        """The request's headers; their names have any case."""
        return self.request.headers  # type: ignore[return-value]

    @property
    def draining(self) -> bool:
        """Whether the worker is stopping: a long stream should come to its end."""
        connection = self.environ.get(CONNECTION)
        return connection is not None and connection.drain is not None and connection.drain.draining

    @cached_property
    def last_event_id(self) -> str | None:
        """The last id that a returning EventSource got: Last-Event-ID, else ``?lastEventId=``.

        None on a first visit. Raises BadRequest if no server can have sent this id.
        """
        sent = self.environ.get("HTTP_LAST_EVENT_ID")
        if sent is None:
            asked = "lastEventId" in self.environ.get("QUERY_STRING", "")
            value = self.query["lastEventId"] if asked and "lastEventId" in self.query else ""
        else:  # browsers send UTF-8, and WSGI reads it as Latin-1
            value = sent.encode("latin-1").decode("utf-8", "replace")
        if len(value) > MAX_EVENT_ID or any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise BadRequest(
                f"Last-Event-ID has at most {MAX_EVENT_ID} characters, none of them a control."
            )
        return value or None

    def on_response(self, finish: Callable[[WerkzeugResponse], object]) -> None:
        """Have `finish` called with the final response, before its headers are sent.

        The response is the one that the outermost middleware returned, or that was made of an
        exception. Use it for headers that belong on every response.
        """
        self.finishers = (*self.finishers, finish)

    def stream(
        self,
        body: object,
        content_type: str = BINARY,
        *,
        status: int = 200,
        headers: HeadersLike = None,
        **options: Unpack[StreamOptionArguments],
    ) -> Response:
        """A response that sends `body` as it comes.

        body: a generator, any iterable or iterator of str or bytes (of Event, too, when
            content_type is text/event-stream), or an object with ``read()``. It is closed once,
            however the response ends. A regular file has a length, validators and ranges.

        options: heartbeat, deadline, send_timeout, flush, drain, on_end; see StreamOptions.

        Raises BodyError, a TypeError, that names what to use instead; ValueError on an option.
        """
        if content_type == BINARY:
            response = self._respond(body, status, headers, content_type)
        else:
            response = self.response_class(body, status, headers, content_type)
        return response.with_options(StreamOptions(**options)) if options else response

    def sse(
        self,
        events: Iterable[object],
        *,
        headers: HeadersLike = None,
        **options: Unpack[StreamOptionArguments],
    ) -> Response:
        """A response that sends each of `events` to an EventSource.

        An item that is not an Event becomes the data of one: text as it is, others as JSON.
        Those of a subscription have ids, and a client that comes back goes on after its last one.
        options: those of ``stream``.
        """
        body = events if isinstance(events, EventBody) else sse.sse(events)
        return self.stream(body, EVENT_STREAM, headers=headers, **options)

    def json(self, data: Any, status: int = 200, headers: HeadersLike = None) -> Response:
        """A response with `data` as JSON (RFC 8259). Raises TypeError or ValueError."""
        return self._respond(_JSON.encode(data), status, headers, "application/json")

    def text(self, text: str, status: int = 200, headers: HeadersLike = None) -> Response:
        """A response with plain text."""
        return self._respond(text, status, headers, "text/plain; charset=utf-8")

    def html(self, html: str, status: int = 200, headers: HeadersLike = None) -> Response:
        """A response with HTML. The caller escapes what has to be escaped."""
        return self._respond(html, status, headers, "text/html; charset=utf-8")

    def redirect(self, location: str, status: int = 302) -> Response:
        """A redirect to `location`, a URL or a path on this host. Raises ValueError."""
        if not 300 <= status < 400:
            raise ValueError(f"a redirect has a status of 300 to 399, not {status}")
        return self.response_class(b"", status, {"Location": iri_to_uri(location)})

    def file(
        self,
        path: str | os.PathLike[str],
        content_type: str | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        download: bool | str = False,
        headers: HeadersLike = None,
    ) -> Response:
        """A response with a file: with length, validators and ranges, and sendfile if possible.

        path: of the file. With `root` it is relative to that folder, and a path that leads out
            of it (by ``..``, an absolute path or a symbolic link) is not found, also if folders
            are moved or linked elsewhere meanwhile. Use `root` for paths that come from a
            request. Links that stay below the root are followed.
        content_type: by default guessed from the name.
        download: True to have browsers save it, or the name to save it as (RFC 6266).

        Raises NotFound (404) if it is not a regular file, Forbidden (403) if it cannot be read.
        """
        asked = os.fspath(path)
        file = _opened(asked, root)
        try:
            if content_type is None:
                response = self._respond(file, 200, headers, _guess(asked))
            else:
                response = self.response_class(file, 200, headers, content_type)
        except BaseException:
            file.close()
            raise
        # as werkzeug's send_file does, so that middleware does not read it into memory
        response.direct_passthrough = True
        # a browser that guesses another type could run what a user has uploaded
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if download:
            name = download if isinstance(download, str) else os.path.basename(asked)
            response.headers["Content-Disposition"] = _attachment(name)
        return response

    def _respond(self, body: object, status: int, headers: HeadersLike, default: str) -> Response:
        """A response whose content type is that of `headers`, or else the default."""
        if headers is not None and "content-type" in (headers := Headers(headers)):
            return self.response_class(body, status, headers)
        return self.response_class(body, status, headers, default)


def _opened(path: str, root: str | os.PathLike[str] | None) -> IO[bytes]:
    """The open file. Raises NotFound or Forbidden."""
    below = path if root is None else safe_join(".", path)
    if below is None:
        raise NotFound
    try:
        return open_file(below, None if root is None else os.fspath(root))
    except PermissionError as error:
        raise Forbidden from error
    except ValueError as error:  # a NUL, or a lone surrogate
        raise NotFound from error
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            raise NotFound from error
        raise


def _guess(name: str) -> str:
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:  # a compressed file is sent as it is, and not as a content coding
        return {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}.get(encoding, BINARY)
    if kind is None:
        return BINARY
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _attachment(name: str) -> str:
    # RFC 6266, appendix D: filename* for most clients, and a plain name for old ones, which may
    # decode a %41 in it
    plain = re.sub(r'[^ -~]|["\\]|%(?=[0-9A-Fa-f]{2})', "_", name)
    options = {"filename": plain}
    if plain != name:
        options["filename*"] = f"UTF-8''{quote(name, safe='', errors='replace')}"
    return dump_options_header("attachment", options)
