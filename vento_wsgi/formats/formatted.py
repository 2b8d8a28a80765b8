"""Formatted: an iterator of the chunks of a format, which closes its source."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from ..bodies.sources import encode as encode_item
from ..exceptions import BodyError

__all__ = ["CHUNK", "Format", "Formatted", "as_bytes", "each"]

CHUNK = 64 * 1024
"""Bytes to which the rows of a list are joined: larger writes are no cheaper."""

Format = Callable[[Iterator[Any]], Iterator[bytes]]


class Formatted(Iterator[bytes]):
    """The chunks of a format. content_type: the Content-Type to send them with."""

    __slots__ = ("_chunks", "_rows", "content_type")

    def __init__(self, name: str, rows: Any, run: Format, content_type: str) -> None:
        single = isinstance(rows, (str, bytes, bytearray, memoryview, Mapping))
        kind = type(rows)
        if single or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
            raise BodyError(f"{name}() takes an iterable, not {kind.__name__}{_hint(rows)}")
        self._rows = rows
        self._chunks = _closing(rows, run)
        self.content_type = content_type

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks  # the same items, without a call of our __next__ for each

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Close the source, even if nothing was read from it. Further calls do nothing."""
        rows, self._rows = self._rows, None
        try:
            self._chunks.close()
        finally:
            if hasattr(rows, "close"):
                rows.close()


def each(rows: Iterator[Any], encode: Callable[[Any], bytes], what: str) -> Iterator[bytes]:
    """Encode each row. Raises BodyError with the number of a row that cannot become `what`."""
    for number, row in enumerate(rows, 1):
        try:
            chunk = encode(row)
        except (TypeError, ValueError, RecursionError, csv.Error) as error:
            raise BodyError(f"item {number} cannot become {what}: {error}") from error
        yield chunk


def as_bytes(item: Any) -> bytes:
    """Text as UTF-8, bytes-like as bytes. Raises TypeError."""
    if not isinstance(item, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"it is {type(item).__name__}, not str or bytes")
    return encode_item(item)


def _hint(rows: Any) -> str:
    if hasattr(rows, "__aiter__"):
        return ": this framework is synchronous, use a generator, def and not async def"
    return ": call it" if callable(rows) else ": put a single one into a list" if rows else ""


def _closing(rows: Any, run: Format) -> Generator[bytes, None, None]:
    chunks = run(iterator := iter(rows))
    try:
        yield from _joined(chunks) if isinstance(rows, (list, tuple)) else chunks
    finally:
        if iterator is not rows and hasattr(iterator, "close"):
            iterator.close()


def _joined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    ready: list[bytes] = []
    try:
        size = 0
        for chunk in chunks:
            ready.append(chunk)
            size += len(chunk)
            if size >= CHUNK:
                yield b"".join(ready)
                ready.clear()
                size = 0
    except Exception:  # send the rows before the one that failed
        yield b"".join(ready)
        raise
    yield b"".join(ready)
