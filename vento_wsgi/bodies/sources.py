"""What a body may be, and how it becomes bytes.

A body is text, bytes, an iterable or iterator of these, or an object with ``read()``. It is
normalised once, here, when the response is made. Nothing of it is taken before the server asks:
no item, and not even its iterator. It is closed once, also if it was read in part or never begun.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, Protocol

from ..exceptions import BodyError, StreamAborted
from ..logs import logger

__all__ = ["READ_SIZE", "Chunks", "EventBody", "Sender", "check", "encode", "measured"]

log = logger(__name__)

READ_SIZE = 64 * 1024
"""Bytes of one read of a file. Larger reads are no cheaper, and slow clients would hold more."""

ITERABLES = (GeneratorType, list, tuple)
"""Types of most bodies, which have nothing of a file or a mapping that had to be looked for."""

_INSTEAD = {
    "NoneType": 'for an empty response, use b"" or Response(status=204)',
    "dict": "use ctx.json(…) for one value, json.dumps(…) for each of many, Event(…) for SSE",
    "Event": 'give the stream the content type "text/event-stream", or use ctx.sse(…)',
    "coroutine": "this framework is synchronous: call a function that returns an iterator",
    "async_generator": "this framework is synchronous: use a generator, def and not async def",
    "function": "call it: the body is what a generator function returns",
    "method": "call it: the body is what a generator function returns",
}


def _refusal(what: str, value: object) -> BodyError:
    kind = type(value).__name__
    instead = _INSTEAD.get(kind)
    if instead is None and isinstance(value, Mapping):
        instead = _INSTEAD["dict"]
    if instead is None and hasattr(value, "__aiter__"):
        instead = _INSTEAD["async_generator"]
    if instead is None and hasattr(value, "iter_bytes"):
        instead = "use its iter_bytes()"
    if instead is None:
        instead = "use str, bytes, an iterable of these, or a file object"
    return BodyError(f"{what} cannot be {kind}: {instead}")


def check(body: Any) -> None:
    """Raise BodyError unless `body` can be streamed; takes nothing of it."""
    if type(body) in ITERABLES:
        return
    if isinstance(body, Mapping) or hasattr(body, "__aiter__") or hasattr(body, "iter_bytes"):
        raise _refusal("a body", body)
    if callable(getattr(body, "read", None)):
        if callable(getattr(body, "readable", None)) and not body.readable():
            raise BodyError("a body's file is open for writing: open it for reading, in mode 'rb'")
    elif not (hasattr(type(body), "__iter__") or hasattr(type(body), "__getitem__")):
        raise _refusal("a body", body)


def encode(item: object) -> bytes:
    """An item of a body as bytes: text is UTF-8. Raises BodyError on anything else."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError as error:
            raise BodyError(f"an item of a body is not Unicode text: {error}") from error
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    raise _refusal("an item of a body", item)


def _reads(file: Any) -> Iterator[bytes | str]:
    # of a pipe, read1() returns what is there, and read() waits for all READ_SIZE bytes
    read = getattr(file, "read1", None) or file.read
    while True:
        block = read(READ_SIZE)
        if block is None:
            raise BodyError("a body's read() returned None: open the file in blocking mode")
        if not block:
            return
        yield block


def _items(body: Any) -> Iterator[Any]:
    if type(body) in ITERABLES:
        return iter(body)
    if isinstance(body, (str, bytes, bytearray, memoryview)):
        return iter((body,))
    if callable(getattr(body, "iter_content", None)):  # of requests; iter() takes 128 bytes
        items = iter(body.iter_content(READ_SIZE))
    elif not callable(getattr(body, "read", None)):
        return iter(body)
    else:
        items = iter(body) if isinstance(body, io.TextIOBase) else _reads(body)
    upstream = _upstream(body)
    return items if upstream is None else _whole(items, upstream)


def _upstream(body: Any) -> Any:
    """The response of http.client or urllib3 that `body` reads from, or None.

    There may be a buffer or a decoder in between, and requests keeps it as ``raw``.
    """
    for _ in range(3):
        if hasattr(body, "chunk_left"):
            return body
        body = getattr(body, "buffer", None) or getattr(body, "raw", None)
    return None


def _whole(items: Iterator[Any], upstream: Any) -> Iterator[Any]:
    """The items. Raises EOFError at their end if the connection of `upstream` broke off before.

    A read returns b"" for that, too: always in http.client, and in urllib3 before version 2 or
    where it is configured so. Both count the bytes that are left.
    """
    yield from items
    left = getattr(upstream, "length_remaining", None)  # urllib3's
    if left is None:
        left = getattr(upstream, "length", None)  # http.client's
    if isinstance(left, int) and left > 0:
        raise EOFError(f"the upstream's response ended {left} bytes short of its Content-Length")


def measured(
    chunks: Iterator[bytes], length: int, name: str, fields: Callable[[], dict[str, object]]
) -> Iterator[bytes]:
    """The chunks of a body of `length` bytes. Raises StreamAborted if there are more or less.

    name: of the stream, for the log. fields: returns the ``extra`` of a log record.
    """
    left = length
    for chunk in chunks:
        if len(chunk) > left:
            log.error(
                "%s: the body is longer than its Content-Length; the rest is cut",
                name,
                extra=fields(),
            )
            if left:
                yield chunk[:left]
            raise StreamAborted(f"{name}: longer than its Content-Length")
        left -= len(chunk)
        yield chunk
    if left:
        log.error(
            "%s: the body ended %d bytes short of its Content-Length", name, left, extra=fields()
        )
        raise StreamAborted(f"{name}: shorter than its Content-Length")


class Sender(Protocol):
    """What a body needs of its response to become a WSGI iterable."""

    @property
    def options(self) -> Any:
        """The StreamOptions."""

    def as_stream(self, environ: Any, chunks: Iterator[bytes]) -> Any:
        """The Stream that sends `chunks`."""

    def closing_apart(self) -> Callable[[], object] | None:
        """What to call at the end in place of the response's close(), if anything is needed.

        It does not hold the response, for those that last much longer than a request.
        """


class Chunks:
    """An iterator of the chunks of a body, and the duty to close what they come from.

    body: any that :func:`check` allows. encode: makes bytes of an item; empty chunks are left
    out. ``close()`` closes the body and its iterator, once.
    """

    __slots__ = ("_body", "_chunks", "_closed", "_encode", "_iterator")

    def __init__(self, body: Iterable[Any] | Any, encode: Callable[[Any], bytes] = encode) -> None:
        check(body)
        self._body = body
        self._encode = encode
        self._iterator: Iterator[Any] | None = None
        self._chunks: Iterator[bytes] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        # the iterator is C, so no frame of ours runs between two chunks
        if self._chunks is None:
            self._iterator = _items(self._body)
            self._chunks = filter(None, map(self._encode, self._iterator))
        return self._chunks

    def __next__(self) -> bytes:
        return next(iter(self))

    def as_wsgi(self, environ: Any, response: Sender) -> Iterable[bytes]:
        """The WSGI iterable of a response with this body, whose head has been made."""
        stream: Iterable[bytes] = response.as_stream(environ, self)
        return stream

    def close(self) -> None:
        """Close the iterator, if there is one, and the body; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        body, iterator = self._body, self._iterator
        self._iterator = self._chunks = iter(())
        try:
            if iterator is not None and iterator is not body and hasattr(iterator, "close"):
                iterator.close()
        finally:
            if hasattr(body, "close"):
                body.close()


class EventBody:
    """A body that only an event stream can carry, and that makes its own chunks."""

    def as_chunks(self) -> Chunks:
        """The blocks of its events, as they are sent."""
        raise NotImplementedError
