"""Server-sent events: the text/event-stream format of the WHATWG HTML standard, section 9.2.

A stream is UTF-8 lines that end in LF, CR or CRLF; an empty line ends a block. A line is a
comment (it starts with a colon) or a field: ``data`` (one line of the data each), ``event``,
``id`` or ``retry``. A client dispatches an event for a block that has data, even if the data is
empty. A block without data can still set the last event id and the reconnection time. Clients
discard an unfinished block at the end of the stream.

Many clients are not EventSource and take any empty line for an event. So this module writes no
empty line after a mere comment or ``retry``: clients act on such a line when they read it, and it
becomes the beginning of the block that follows.

This module does no I/O. :class:`Event` and :func:`sse` make bytes; :func:`decode` turns them back
into events, wherever the chunks were cut.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from .bodies.sources import Chunks
from .bodies.sources import encode as encode_item
from .exceptions import BodyError, EventError

__all__ = [
    "COMMENT",
    "CONTENT_TYPE",
    "RETRY",
    "Event",
    "decode",
    "encode",
    "opening",
    "sse",
]

CONTENT_TYPE = "text/event-stream"

COMMENT = b":\n"
"""A line that clients ignore. It is the first line of a stream, because some proxies pass the
headers on only with the first bytes of the body, and it is the heartbeat of a silent stream.
"""

RETRY = 3000
"""Default reconnection time in milliseconds: the default of Chromium."""

MAX_RETRY = 10**15 - 1
"""Largest reconnection time in milliseconds: an exact number in every client (below 2**53)."""

MAX_EVENT = 16 * 1024 * 1024
"""Characters of one block that decode() accepts by default."""

_BLOCK_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_ASIDE = re.compile(rb"(?:(?::|retry:)[^\r\n]*(?:\r\n|\n|\r))*")
"""Lines that belong to no event: comments and ``retry``."""
_NEWLINE = re.compile(r"\r\n|\r|\n")


def _text(value: object, field: str, forbidden: str = "") -> str:
    if not isinstance(value, str):
        raise EventError(f"an event's {field} is text, not {value!r}")
    for character in forbidden:
        if character in value:
            raise EventError(f"an event's {field} cannot contain {character!r}: {value!r}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise EventError(f"an event's {field} is not Unicode text: {error}") from error
    return value


def _lines(value: object, field: str) -> str:
    text = _text(value, field)
    return _NEWLINE.sub("\n", text) if "\r" in text else text


def _data(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise EventError(f"an event's data is not UTF-8: {error}; base64 it") from error
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError(f"an event's data cannot become JSON: {error}") from error


class Event:
    """One block of an event stream. An Event does not change once it is made.

    data: str is sent as it is, bytes as UTF-8, any other value as JSON. The attribute is the text
        that is sent, with LF as its newline.
    event: the event type; clients take "message" if there is none. No CR, LF.
    id: sent back by the client as Last-Event-ID; "" resets it. No CR, LF, NUL.
    retry: the reconnection time in whole milliseconds, 0 to MAX_RETRY.
    comment: lines that clients ignore.

    The constructor raises EventError. https://html.spec.whatwg.org/#parsing-an-event-stream
    """

    __slots__ = ("comment", "data", "event", "id", "retry")

    data: str | None
    event: str | None
    id: str | None
    retry: int | None
    comment: str | None

    def __init__(
        self,
        data: object = None,
        *,
        event: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        comment: str | None = None,
    ) -> None:
        if data is not None:
            data = _lines(data if isinstance(data, str) else _data(data), "data")
        if event is not None:
            event = _text(event, "type", "\r\n") or None
        name = str(id) if type(id) is int else id
        identifier = None if name is None else _text(name, "id", "\r\n\0")
        if retry is not None and (type(retry) is not int or retry < 0):
            raise EventError(f"retry is a whole number of milliseconds, not {retry!r}")
        if retry is not None and retry > MAX_RETRY:
            raise EventError(f"retry is a number of milliseconds up to {MAX_RETRY}")
        if comment is not None:
            comment = _lines(comment, "comment")
        if (data, event, identifier, retry, comment) == (None,) * 5:
            raise EventError("an event needs data, a type, an id, a retry or a comment")
        self.data = data
        self.event = event
        self.id = identifier
        self.retry = retry
        self.comment = comment

    def encode(self) -> bytes:
        """The block as bytes, with its empty line unless it is a mere comment or ``retry``."""
        block = ""
        if self.event is not None:
            block = f"event: {self.event}\n"
        if self.id is not None:
            block += f"id: {self.id}\n"
        if self.data is not None:
            data = self.data.replace("\n", "\ndata: ") if "\n" in self.data else self.data
            block += f"data: {data}\n"
        # after the fields of the event: decode() gives earlier lines as a block of their own
        if self.retry is not None:
            block += f"retry: {self.retry}\n"
        if self.comment is not None:
            block += f": {self.comment}\n".replace("\n", "\n: ")[:-2]
        return (block if self.is_aside else f"{block}\n").encode()

    @property
    def is_aside(self) -> bool:
        """Whether it has only a comment or ``retry``, so that clients dispatch no event."""
        return self.data is None and self.id is None and self.event is None

    def _fields(self) -> tuple[object, ...]:
        return self.data, self.event, self.id, self.retry, self.comment

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Event) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        names = ("event", "id", "retry", "comment")
        given = [
            f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) is not None
        ]
        return f"Event({', '.join([repr(self.data), *given])})"


def encode(item: object) -> bytes:
    """Encode an item of an event stream: an Event as its block, text and bytes as they are."""
    if type(item) is str and item.isascii():  # tokens of an LLM are, and there are many
        return item.encode()
    return item.encode() if isinstance(item, Event) else encode_item(item)


def _frame(item: object) -> bytes:
    if isinstance(item, Event):
        return item.encode()
    return Event("null" if item is None else item).encode()  # Event(None) would have no data


def sse(items: Iterable[object]) -> Iterator[bytes]:
    """Encode each item as one event; an item that is no Event becomes the data of one.

    The iterator has a ``close()`` that closes `items`. Raises BodyError if `items` cannot be
    iterated, EventError at an item that cannot be encoded.
    """
    if isinstance(items, (Event, str, bytes)):
        raise BodyError(f"sse() takes the items, an iterable of events: [{items!r}]")
    return Chunks(items, _frame)


def opening(method: str) -> bytes:
    """The first bytes of an event stream.

    For a GET they set the reconnection time: a worker that stopped may have sent another, which
    EventSource would use until its page is closed. Only GET, since EventSource sends nothing else.
    """
    return b":\nretry: %d\n" % RETRY if method == "GET" else COMMENT


class Boundary:
    """Follows the raw bytes of a source, to know whether something may be inserted after them."""

    __slots__ = ("_block",)

    LONGEST = 1024
    """Bytes of an unfinished block that are kept; longer comments count as part of an event."""

    def __init__(self) -> None:
        self._block = b""

    def pass_over(self, piece: bytes) -> None:
        """Called with each piece of the source, in order."""
        if piece.endswith(b"\n\n"):
            self._block = b""
            return
        block = self._cut(piece) if len(piece) > self.LONGEST else self._block + piece
        start = 0
        for end in _BLOCK_END.finditer(block):
            start = end.end()
        self._block = self._cut(block[start:].lstrip(b"\r\n"))

    def _cut(self, block: bytes) -> bytes:
        # the removed part may have held a field; no line of _ASIDE begins with "?"
        return block if len(block) <= self.LONGEST else b"?" + block[-self.LONGEST :]

    @property
    def between_lines(self) -> bool:
        """Whether a comment or ``retry`` may be inserted: not after a CR, since LF may follow."""
        return not self._block or self._block.endswith(b"\n")

    @property
    def between_events(self) -> bool:
        """Whether an event may be inserted: not inside a block."""
        return _ASIDE.fullmatch(self._block) is not None


class _Block:
    """The block being read: the buffers of "interpreting an event stream" in the standard."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit
        self.data: list[str] = []
        self.comment: list[str] = []
        self.event: str | None = None
        self.id: str | None = None
        self.retry: int | None = None

    def grow(self, text: str) -> None:
        self.left -= len(text)
        if self.left < 0:
            raise EventError(
                f"an event is longer than {self.limit} characters: raise max_event to read it"
            )

    def take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if not name:
            self.comment.append(value)
        elif name == "data":
            self.data.append(value)
        elif name == "event":
            self.event = value
        elif name == "id" and "\0" not in value:
            self.id = value
        elif (
            name == "retry" and value.isascii() and value.isdigit() and len(value.lstrip("0")) <= 15
        ):
            self.retry = int(value.lstrip("0") or "0")

    @property
    def has_begun(self) -> bool:
        """Whether it has a field of an event, so that later comments belong to the event."""
        return bool(self.data or self.event) or self.id is not None

    def end(self) -> Event | None:
        if not (self.has_begun or self.comment or self.retry is not None):
            return None
        return Event(
            "\n".join(self.data) if self.data else None,
            event=self.event,
            id=self.id,
            retry=self.retry,
            comment="\n".join(self.comment) if self.comment else None,
        )


def decode(chunks: Iterable[bytes], *, max_event: int = MAX_EVENT) -> Iterator[Event]:
    """The events of a stream, each as soon as its empty line was read, wherever chunks are cut.

    Blocks that a browser does not dispatch are Events with ``data`` None: a block without data,
    and each comment or ``retry`` before the first field of a block (such as a heartbeat), as soon
    as its line was read. ``id`` is the id of the block itself, not the last event id.
    Bytes that are not UTF-8 become U+FFFD. Raises EventError if a block is longer than
    `max_event` characters.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    block = _Block(max_event)
    unfinished: list[str] = []
    after_cr = False
    for chunk in chunks:
        text = decoder.decode(chunk)
        if after_cr and text:
            after_cr = False
            text = text[1:] if text[0] == "\n" else text
        if not text:
            continue
        after_cr = text[-1] == "\r"
        *lines, rest = _NEWLINE.split(text)
        for line in lines:
            block.grow(line)
            if unfinished:
                line = "".join([*unfinished, line])
                unfinished.clear()
            if line:
                block.take(line)
                if block.has_begun:
                    continue
            if (event := block.end()) is not None:
                yield event
            block = _Block(max_event)
        if rest:
            block.grow(rest)
            unfinished.append(rest)
