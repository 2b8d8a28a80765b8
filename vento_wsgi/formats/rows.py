"""Formats of rows: NDJSON, a JSON array, CSV."""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

from .formatted import Formatted, as_bytes, each

__all__ = ["FORMULA", "csv_rows", "json_array", "ndjson"]

FORMULA = tuple("=+-@\t\r\n\0＝＋－＠")
"""The beginnings of a formula, by OWASP's "CSV Injection" and ASVS 5, 1.2.10."""

_NUMBERS = frozenset((int, float, bool, type(None)))

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def ndjson(rows: Iterable[Any], *, dumps: Callable[[Any], str | bytes] = _compact) -> Formatted:
    """Each row as JSON on a line of its own (application/x-ndjson).

    dumps: encodes a row as one line of JSON, str or bytes; for types that ``json`` does not know,
        or for a faster library: ``orjson.dumps``.

    Raises BodyError if `rows` is not iterable.
    """

    def encode(row: Any) -> bytes:
        if dumps is _compact:
            return (_compact(row) + "\n").encode()
        line = as_bytes(dumps(row))
        if b"\n" in line:
            raise ValueError("dumps returned more than one line")
        return line + b"\n"

    def run(rows: Iterator[Any]) -> Iterator[bytes]:
        return each(rows, encode, "a line of NDJSON")

    return Formatted("ndjson", rows, run, "application/x-ndjson")


def json_array(rows: Iterable[Any], *, dumps: Callable[[Any], str | bytes] = _compact) -> Formatted:
    """The rows as one JSON array (application/json); ``[]`` if there are none.

    If the stream fails or ends early, the closing bracket is missing, so no parser takes a part
    for the whole. dumps: as for ``ndjson``.
    """

    def run(rows: Iterator[Any]) -> Iterator[bytes]:
        before = b"["
        for value in each(rows, lambda row: as_bytes(dumps(row)), "JSON"):
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

    rows: mappings, or sequences of cells.
    columns: the header row. Of mappings, only these keys are written, in this order. Without
        `columns`, the keys of the first mapping are the header, and a later mapping with another
        key is an error; sequences get no header. A missing key is an empty cell.
    guard: keeps spreadsheets from running cells as formulas. Text that begins like a formula
        (``= + - @``, tab, CR, LF, NUL, full-width forms) gets an apostrophe before it, and all
        text is quoted; numbers do not change. Every reader sees the apostrophe (``'=1+1``, and
        ``'-5`` for the text ``-5``), so use it for files that people open, not for programs.
    bom: starts with a byte order mark; without one Excel does not recognise UTF-8.
    format: ``delimiter``, ``quoting``, ``lineterminator``, ``dialect``… of ``csv.writer``.

    Raises BodyError if `rows` is not iterable, TypeError if csv does not know the format.
    """
    names = None if columns is None else list(columns)
    if isinstance(columns, str):
        raise TypeError(f"columns are a sequence of names: [{columns!r}]")
    if guard:
        format.setdefault("quoting", csv.QUOTE_NONNUMERIC)
    ending = csv.writer(_Echo, **format).dialect.lineterminator
    # csv quotes a cell only for the characters of its lineterminator, but readers take both CR and
    # LF for a line break. So csv gets both, and the one not asked for is cut off each line.
    added = "".join(char for char in "\r\n" if char not in ending)
    format["lineterminator"] = ending + added
    write: Callable[[Iterable[Any]], Any] = csv.writer(_Echo, **format).writerow

    def line(cells: Iterable[Any]) -> bytes:
        text: str = write([_tamed(cell) for cell in cells] if guard else cells)
        return (text[: -len(added)] if added else text).encode()

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

        yield from each(rows, encode, "a row of CSV")

    return Formatted("csv_rows", rows, run, "text/csv; charset=utf-8")


class _Echo:
    """A file for csv.writer: writerow() returns the result of write(), here the line itself."""

    @staticmethod
    def write(text: str) -> str:
        return text


def _tamed(cell: Any) -> Any:
    if isinstance(cell, str):
        text = str.__str__(cell)  # csv does not call the __str__ of a subclass either
    elif type(cell) in _NUMBERS or isinstance(cell, Number):
        return cell
    else:
        text = str(cell)
    return f"'{text}" if text.startswith(FORMULA) else text


def _cells_of(first: Any, columns: list[str], *, strict: bool) -> Callable[[Any], Any]:
    """The function that returns the cells of a row, for rows that are like the first one.

    strict: whether a mapping with a key that is no column is an error.
    """
    mapping, known = isinstance(first, Mapping), frozenset(columns)

    def of_mapping(row: Any) -> list[Any]:
        if not isinstance(row, Mapping):
            raise TypeError("it is not a mapping, as the first row is")
        if strict and not row.keys() <= known:
            extra = ", ".join(repr(name) for name in row if name not in known)
            raise ValueError(f"there is no column for {extra}: list all columns in columns=")
        return [row.get(name, "") for name in columns]

    def of_sequence(row: Any) -> Any:
        if isinstance(row, (str, bytes, Mapping)):
            raise TypeError(f"it is {type(row).__name__}, not a sequence of cells")
        cells = row if isinstance(row, (list, tuple)) else list(row)
        if not strict and len(cells) != len(columns):
            raise ValueError(f"it has {len(cells)} cells, not {len(columns)}")
        return cells

    return of_mapping if mapping else of_sequence
