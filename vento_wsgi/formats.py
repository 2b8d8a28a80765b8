"""Formats: rows as NDJSON, JSON and CSV, frames and parts as multipart; each row when it exists.

    rows = ndjson(query())
    return ctx.stream(rows, rows.content_type)

A row of a source that may wait is a chunk of its own: nobody can know whether the next one is
about to come, so none is held back for it. Under gevent the stream joins those that are ready
together, at a tenth of what it costs to make them. A list or a tuple never waits: its rows are
joined here, up to CHUNK bytes.

What a row cannot become is a BodyError that tells its number, in mid-stream; then the closing
bracket of an array and the closing delimiter of a multipart body stay away.
"""

from __future__ import annotations

import csv
import json
import re
import secrets
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

from .exceptions import BodyError

__all__ = ["Formatted", "csv_rows", "json_array", "multipart_mixed", "ndjson"]

CHUNK = 64 * 1024
"""Bytes in which the rows of a list are joined: larger writes are no cheaper."""

FORMULA = tuple("=+-@\t\r\n\0＝＋－＠")
"""What a formula begins with, by OWASP's "CSV Injection", and ASVS 5, 1.2.10."""

_NUMBERS = frozenset((int, float, bool, type(None)))
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_FIELD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*")

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

Format = Callable[[Iterator[Any]], Iterator[bytes]]


class Formatted(Iterator[bytes]):
    """The chunks of a format, and what to send them as: ``content_type``."""

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
        return self._chunks  # the same iterator, at less a step

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Close the source, also if nothing was taken of it; further calls do nothing."""
        rows, self._rows = self._rows, None
        try:
            self._chunks.close()
        finally:
            if hasattr(rows, "close"):
                rows.close()


def ndjson(rows: Iterable[Any], *, dumps: Callable[[Any], str | bytes] = _compact) -> Formatted:
    """Each row as JSON on a line of its own (application/x-ndjson).

    dumps: makes JSON of a row, as str or bytes in one line, for types that ``json`` does not
        know, or another library: ``orjson.dumps``. Raises BodyError if `rows` are none.
    """

    def encode(row: Any) -> bytes:
        if dumps is _compact:
            return (_compact(row) + "\n").encode()
        line = _bytes(dumps(row))
        if b"\n" in line:
            raise ValueError("dumps gave more than one line")
        return line + b"\n"

    def run(rows: Iterator[Any]) -> Iterator[bytes]:
        return _each(rows, encode, "a line of NDJSON")

    return Formatted("ndjson", rows, run, "application/x-ndjson")


def json_array(rows: Iterable[Any], *, dumps: Callable[[Any], str | bytes] = _compact) -> Formatted:
    """The rows as one JSON array (application/json): ``[]`` of none.

    After an error, or a stream that ended early, its closing bracket is missing, so that no
    parser takes a part for all. dumps: as for ``ndjson``.
    """

    def run(rows: Iterator[Any]) -> Iterator[bytes]:
        before = b"["
        for value in _each(rows, lambda row: _bytes(dumps(row)), "JSON"):
            yield before + value
            before = b",\n"
        yield b"[]" if before == b"[" else b"]"

    return Formatted("json_array", rows, run, "application/json")


def csv_rows(
    rows: Iterable[Mapping[str, Any] | Iterable[Any]],
    *,
    columns: Sequence[str] | None = None,
    guard: bool = False,
    bom: bool = False,
    **format: Any,
) -> Formatted:
    """The rows as CSV (RFC 4180, text/csv), by the ``csv`` module.

    rows: mappings, or sequences of cells. columns: the header, and of mappings the keys in
        their order, others being left out. Without it, mappings have the keys of the first one,
        and another key later is an error; sequences have no header. A missing key is empty.
    guard: keeps spreadsheets from running cells as formulas: text that begins as one does
        (``= + - @``, tab, CR, LF, NUL, full-width forms) gets an apostrophe before it, and all
        text is quoted. ``=1+1`` becomes ``'=1+1`` and the text ``-5`` becomes ``'-5``, for every
        reader; numbers stay what they are. For people, then, not for programs.
    bom: starts with a byte order mark, without which Excel takes UTF-8 for something else.
    format: ``delimiter``, ``quoting``, ``lineterminator``, ``dialect``… of ``csv.writer``.

    Raises BodyError, TypeError on a format that csv does not know.
    """
    names = None if columns is None else list(columns)
    if isinstance(columns, str):
        raise TypeError(f"columns are a sequence of names: [{columns!r}]")
    if guard:
        format.setdefault("quoting", csv.QUOTE_NONNUMERIC)
    write: Callable[[Iterable[Any]], Any] = csv.writer(_Echo, **format).writerow

    def line(cells: Iterable[Any]) -> bytes:
        text: str = write([_tamed(cell) for cell in cells] if guard else cells)
        return text.encode()

    def run(rows: Iterator[Any]) -> Iterator[bytes]:
        if bom or names is not None:
            yield (BOM_UTF8 if bom else b"") + (line(names) if names is not None else b"")
        cells: Callable[[Any], Any] | None = None

        def encode(row: Any) -> bytes:
            nonlocal cells
            if cells is not None:
                return line(cells(row))
            keys = list(row) if names is None and isinstance(row, Mapping) else []
            cells = _cells_of(row, names or keys, strict=names is None)
            return (line(keys) if keys else b"") + line(cells(row))

        yield from _each(rows, encode, "a row of CSV")

    return Formatted("csv_rows", rows, run, "text/csv; charset=utf-8")


def multipart_mixed(
    parts: Iterable[bytes | str | tuple[Mapping[str, str], bytes | str]],
    *,
    part_type: str = "application/octet-stream",
    replace: bool = False,
    boundary: str | None = None,
) -> Formatted:
    """The parts of a multipart body (RFC 2046, section 5.1), each with its length.

    parts: the content of each, of the type `part_type`, or its headers and its content.
    replace: for ``multipart/x-mixed-replace``: each part takes the place of the one before it,
        as the frames of a camera do in ``<img src=…>``.
    boundary: up to 70 characters by RFC 2046; a random one by default, which no part contains.

    The delimiter follows each part at once, since clients show a part when they see its end.
    """
    if boundary is not None and not _BOUNDARY.fullmatch(boundary):
        raise ValueError(f"a boundary has 1 to 70 characters by RFC 2046, not {boundary!r}")
    given, boundary = boundary is not None, boundary or secrets.token_hex(16)
    delimiter = f"\r\n--{boundary}".encode()
    default = _head({"Content-Type": part_type})

    def encode(part: Any) -> bytes:
        head, content = default, part
        if isinstance(part, tuple):
            head, content = _head(part[0]), part[1]
        data = _bytes(content)
        if given and delimiter in b"\r\n" + data:
            raise ValueError("it contains the boundary: leave boundary= out")
        return b"%b\r\nContent-Length: %d\r\n\r\n%b%b" % (head, len(data), data, delimiter)

    def run(parts: Iterator[Any]) -> Iterator[bytes]:
        before = delimiter[2:]
        for part in _each(parts, encode, "a part"):
            yield before + part
            before = b""
        yield before + b"--\r\n"

    kind = "x-mixed-replace" if replace else "mixed"
    value = f'"{boundary}"' if given else boundary
    return Formatted("multipart_mixed", parts, run, f"multipart/{kind}; boundary={value}")


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


def _each(rows: Iterator[Any], encode: Callable[[Any], bytes], what: str) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        try:
            chunk = encode(row)
        except (TypeError, ValueError, RecursionError, csv.Error) as error:
            raise BodyError(f"item {number} cannot become {what}: {error}") from error
        yield chunk


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
    except Exception:  # what was whole before it leaves
        yield b"".join(ready)
        raise
    yield b"".join(ready)


def _bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    raise TypeError(f"it is {type(item).__name__}, not str or bytes")


class _Echo:
    """csv.writer's file: writerow() gives back what its write() does."""

    @staticmethod
    def write(text: str) -> str:
        return text


def _tamed(cell: Any) -> Any:
    if type(cell) in _NUMBERS or isinstance(cell, Number):
        return cell
    text = cell if type(cell) is str else str(cell)
    return f"'{text}" if text.startswith(FORMULA) else text


def _cells_of(first: Any, columns: list[str], *, strict: bool) -> Callable[[Any], Any]:
    """What gives the cells of rows that are like the first one. strict: of the columns alone."""
    mapping, known = isinstance(first, Mapping), frozenset(columns)

    def of_mapping(row: Any) -> list[Any]:
        if not isinstance(row, Mapping):
            raise TypeError("it is no mapping, as the first one is")
        if strict and not row.keys() <= known:
            extra = ", ".join(repr(name) for name in row if name not in known)
            raise ValueError(f"there is no column for {extra}: name all in columns=")
        return [row.get(name, "") for name in columns]

    def of_sequence(row: Any) -> Any:
        if isinstance(row, (str, bytes, Mapping)):
            raise TypeError(f"it is {type(row).__name__}, not a sequence of cells")
        cells = row if isinstance(row, (list, tuple)) else list(row)
        if not strict and len(cells) != len(columns):
            raise ValueError(f"it has {len(cells)} cells, not {len(columns)}")
        return cells

    return of_mapping if mapping else of_sequence


def _head(headers: Mapping[str, str]) -> bytes:
    """A part's headers, each after its line break."""
    fields = [f"{name}: {value}" for name, value in headers.items()]
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise ValueError(f"the header {field!r} cannot be sent")
    return "".join(f"\r\n{field}" for field in fields).encode("latin-1")
