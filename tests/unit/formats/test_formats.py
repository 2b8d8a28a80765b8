"""Formats: read back by other readers, one row at a time, and visibly broken when they break."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from email import message_from_bytes
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.in_process import Source, answer, iterate

from vento_wsgi import BodyError, Response
from vento_wsgi.formats import Formatted, csv_rows, json_array, multipart_mixed, ndjson
from vento_wsgi.formats.formatted import CHUNK
from vento_wsgi.formats.rows import FORMULA

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=5,
)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
FORMATS: list[Callable[..., Formatted]] = [ndjson, json_array, csv_rows, multipart_mixed]


def text(chunks: Iterable[bytes]) -> str:
    return b"".join(chunks).decode()


def table(chunks: Iterable[bytes], **format: Any) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text(chunks), newline=""), **format))


def lazily(rows: Iterable[Any]) -> Iterator[Any]:
    """The same rows, from a source that might wait."""
    yield from rows


# NDJSON and JSON.


@settings(deadline=None)
@given(st.lists(VALUES))
def test_each_line_of_ndjson_is_a_row(rows: list[Any]) -> None:
    for source in (rows, lazily(rows)):
        lines = text(ndjson(source)).split("\n")
        assert lines.pop() == ""
        assert [json.loads(line) for line in lines] == rows


@settings(deadline=None)
@given(st.lists(VALUES))
def test_an_array_is_the_rows(rows: list[Any]) -> None:
    assert json.loads(text(json_array(rows))) == rows
    assert json.loads(text(json_array(lazily(rows)))) == rows


def test_an_array_of_no_rows_is_empty() -> None:
    assert text(json_array([])) == text(json_array(iter(()))) == "[]"


def test_another_library_may_make_the_json() -> None:
    rows = [Decimal("1.5"), Decimal(2)]
    assert text(ndjson(rows, dumps=str)) == "1.5\n2\n"
    assert text(json_array(rows, dumps=lambda row: str(row).encode())) == "[1.5,\n2]"
    with pytest.raises(BodyError, match=r"item 1 cannot become a line of NDJSON: .*one line"):
        list(ndjson([[1]], dumps=lambda row: json.dumps(row, indent=1)))
    with pytest.raises(BodyError, match="item 1 cannot become JSON: it is dict, not str or bytes"):
        list(json_array([{}], dumps=lambda row: row))


@pytest.mark.parametrize("bad", [float("nan"), object(), {1, 2}, "\ud800"])
def test_a_row_that_is_no_json_is_named_by_its_number(bad: object) -> None:
    for make in (ndjson, json_array):
        with pytest.raises(BodyError, match="item 3 cannot become"):
            list(make([1, 2, bad, 4]))


@pytest.mark.parametrize("lazy", [True, False])
def test_an_array_that_fails_in_the_middle_is_no_json(lazy: bool) -> None:
    rows = [1, 2, object(), 4]
    sent, whole = iterate(answer(Response(json_array(lazily(rows) if lazy else rows))))
    assert (sent, whole) == (b"[1,\n2", False)


def test_an_array_whose_source_fails_is_no_json() -> None:
    sent, whole = iterate(answer(Response(json_array(Source(1, 2, RuntimeError("gone"))))))
    assert (sent, whole) == (b"[1,\n2", False)


# CSV.


@settings(deadline=None)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=4)))
def test_csv_is_read_back_as_it_was(rows: list[list[str]]) -> None:
    assert table(csv_rows(rows)) == table(csv_rows(lazily(rows))) == rows


def test_sequences_have_the_header_that_they_are_given() -> None:
    rows = [(1, "Ada"), [2, None]]
    assert text(csv_rows(rows)) == "1,Ada\r\n2,\r\n"
    assert text(csv_rows(rows, columns=["id", "name"])) == "id,name\r\n1,Ada\r\n2,\r\n"
    assert text(csv_rows([], columns=["id", "name"])) == "id,name\r\n"
    with pytest.raises(BodyError, match=r"item 1 .*it has 2 cells, not 1"):
        list(csv_rows(rows, columns=["id"]))


def test_mappings_have_the_columns_of_the_first() -> None:
    rows: list[Any] = [{"id": 1, "name": "Ada"}, {"name": "Bob"}]
    assert text(csv_rows(lazily(rows))) == "id,name\r\n1,Ada\r\n,Bob\r\n"
    with pytest.raises(BodyError, match=r"item 3 .*no column for 'x': list all columns"):
        list(csv_rows([*rows, {"x": 1}]))


def test_mappings_may_have_some_columns_in_an_order() -> None:
    rows: list[Any] = [{"id": 1, "name": "Ada", "secret": 7}, {"born": 1815}]
    assert text(csv_rows(rows, columns=["born", "name"])) == "born,name\r\n,Ada\r\n1815,\r\n"


@pytest.mark.parametrize(
    "rows", [[{"a": 1}, [1]], [[1], {"a": 1}], ["text"], [1], [[1], b"bytes"], [None]]
)
def test_what_is_no_row_like_the_others_is_refused(rows: list[Any]) -> None:
    with pytest.raises(BodyError, match=rf"item {len(rows)} cannot become a row of CSV"):
        list(csv_rows(rows))


def test_a_header_does_not_wait_for_the_first_row() -> None:
    source = Source([1])
    chunks = csv_rows(source, columns=["id"], bom=True)
    assert (next(chunks), source.taken) == ("\ufeffid\r\n".encode(), 0)


def test_the_format_is_that_of_the_csv_module() -> None:
    rows = [["a;b", 1]]
    assert text(csv_rows(rows, delimiter=";", lineterminator="\n")) == '"a;b";1\n'
    with pytest.raises(TypeError):
        csv_rows(rows, colour="red")
    with pytest.raises(TypeError, match=r"columns are a sequence of names: \['id'\]"):
        csv_rows(rows, columns="id")


@pytest.mark.parametrize("begins", FORMULA)
def test_no_guarded_text_begins_as_a_formula(begins: str) -> None:
    if begins == "\0" and sys.version_info < (3, 11):
        pytest.skip("csv takes no NUL, so that it is a BodyError")
    cell = f'{begins}cmd|"/c calc"!A1'
    [[header], [written]] = table(csv_rows([{cell: cell}], guard=True))
    assert header == written == f"'{cell}"
    assert table(csv_rows([[cell]])) == [[cell]]


def test_guarded_numbers_stay_numbers_and_all_text_is_quoted() -> None:
    row = [-5, -1.5, Decimal("-0.1"), None, "", "a;=1", "-5", True]
    assert text(csv_rows([row], guard=True)) == '-5,-1.5,-0.1,"","","a;=1","\'-5",True\r\n'


def test_what_becomes_text_only_when_it_is_written_is_guarded_as_well() -> None:
    class Name:
        def __str__(self) -> str:
            return "=1+1"

    assert table(csv_rows([[Name()]], guard=True)) == [["'=1+1"]]


class Status(str, Enum):
    OPEN = "open"
    FORMULA = "=1+1"


@pytest.mark.parametrize("guard", [False, True])
def test_text_is_written_and_no_name_that_its_class_has_for_it(guard: bool) -> None:
    formula = "'=1+1" if guard else "=1+1"
    assert table(csv_rows([[Status.OPEN, Status.FORMULA]], guard=guard)) == [["open", formula]]


@pytest.mark.parametrize(
    "format",
    [
        {"lineterminator": "\n"},
        {"lineterminator": "\r"},
        {"lineterminator": "|\n"},
        {"dialect": "unix"},
    ],
)
@pytest.mark.parametrize("guard", [False, True])
def test_a_line_break_in_a_cell_is_quoted_whatever_ends_a_line(
    format: dict[str, Any], guard: bool
) -> None:
    cells = ["a\rb", "a\nb", "a\r\nb", "\r", "plain"]
    line = text(csv_rows([cells], guard=guard, **format))
    ending = format.get("lineterminator", "\n")
    assert line.endswith(ending)
    for cell in cells[:3]:
        assert f'"{cell}"' in line
    [read] = csv.reader(io.StringIO(line.removesuffix(ending), newline=""))
    assert read == [*cells[:3], "'\r" if guard else "\r", "plain"]


# Multipart.


def parsed(body: Formatted) -> list[tuple[str, bytes]]:
    """The parts, by the standard library."""
    message = message_from_bytes(
        f"Content-Type: {body.content_type}\r\n\r\n".encode() + b"".join(body)
    )
    assert not message.defects
    found = []
    for part in message.get_payload():
        content = part.get_payload(decode=True)  # type: ignore[union-attr]
        assert part["Content-Length"] == str(len(content))  # type: ignore[index]
        found.append((part.get_content_type(), content))  # type: ignore[union-attr]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("boundary", [None, "a frame (1)"])
def test_parts_are_read_back_with_their_types(boundary: str | None) -> None:
    parts = [b"\xff\xd8one", ({"Content-Type": "text/plain", "X-At": "7"}, "two"), b""]
    body = multipart_mixed(lazily(parts), part_type="image/jpeg", boundary=boundary)
    assert body.content_type.startswith("multipart/mixed; boundary=")
    assert parsed(body) == [
        ("image/jpeg", b"\xff\xd8one"),
        ("text/plain", b"two"),
        ("image/jpeg", b""),
    ]


def test_the_delimiter_follows_a_part_at_once_and_the_last_one_closes() -> None:
    parts = multipart_mixed(lazily([b"1", b"2"]), part_type="image/png", boundary="b")
    assert list(parts) == [
        b"--b\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\n1\r\n--b",
        b"\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\n2\r\n--b",
        b"--\r\n",
    ]
    assert list(multipart_mixed([], boundary="b")) == [b"--b--\r\n"]


def test_the_headers_of_the_next_frame_follow_a_frame_at_once() -> None:
    frames = multipart_mixed(lazily([b"1", b"2"]), part_type="image/png", replace=True)
    assert frames.content_type.startswith("multipart/x-mixed-replace; boundary=")
    boundary = frames.content_type.partition("=")[2].encode()
    head = b"--" + boundary + b"\r\nContent-Type: image/png\r\n\r\n"
    assert list(frames) == [
        head + b"1\r\n" + head,
        b"2\r\n" + head,
        b"\r\n--" + boundary + b"--\r\n",
    ]
    parts: Any = [({}, b"1")]
    with pytest.raises(BodyError, match=r"item 1 .* no headers of their own"):
        list(multipart_mixed(parts, replace=True))


def test_frames_that_break_off_have_no_closing_delimiter() -> None:
    source = Source(b"1", RuntimeError("unplugged"))
    sent, whole = iterate(answer(Response(multipart_mixed(source, boundary="b"))))
    assert (sent.endswith(b"1\r\n--b"), whole) == (True, False)


@pytest.mark.parametrize("content", ["--b", "a\r\n--b\r\n", b"\r\n--b--"])
def test_a_part_with_the_boundary_in_it_is_refused(content: bytes | str) -> None:
    with pytest.raises(BodyError, match=r"item 1 .*contains the boundary: leave boundary= out"):
        list(multipart_mixed([content], boundary="b"))
    assert len(parsed(multipart_mixed([content]))) == 1


@pytest.mark.parametrize("boundary", ["", "a\r\nb", "ends in space ", "ü", "x" * 71])
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(ValueError, match="a boundary has 1 to 70 characters"):
        multipart_mixed([], boundary=boundary)


HEADS = [{"X-A": "1\r\nX-B: 2"}, {"X:": "1"}, {"X: 1": "2"}, {"": "1"}, {"X": "€"}]


@pytest.mark.parametrize("headers", HEADS)
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BodyError, match=r"item 1 .*header .* cannot be sent"):
        list(multipart_mixed([(headers, b"")]))
    with pytest.raises(ValueError, match=r"header .* cannot be sent"):
        multipart_mixed([], part_type="image/jpeg\r\nX-B: 2")


def test_content_that_is_no_bytes_is_refused() -> None:
    parts: Any = [7]
    with pytest.raises(BodyError, match="item 1 cannot become a part: it is int"):
        list(multipart_mixed(parts))


# All of them.

ROW: dict[Callable[..., Formatted], Any] = {
    ndjson: [1],
    json_array: [1],
    csv_rows: [1],
    multipart_mixed: b"1",
}


@pytest.mark.parametrize("make", FORMATS)
def test_a_row_is_a_chunk_as_soon_as_the_source_has_made_it(make: Callable[..., Formatted]) -> None:
    source = Source(*[ROW[make]] * 3)
    for number, _ in zip(range(1, 4), make(source)):
        assert source.taken == number


@pytest.mark.parametrize("make", [ndjson, json_array, csv_rows])
@pytest.mark.parametrize("kind", [list, tuple])
def test_the_rows_of_a_list_are_joined_up_to_a_size(
    make: Callable[..., Formatted], kind: Any
) -> None:
    rows = kind([["x" * 100]] * 5000)
    joined = list(make(rows))
    assert b"".join(joined) == b"".join(make(iter(rows)))
    assert all(CHUNK <= len(chunk) < CHUNK + 200 for chunk in joined[:-1])
    assert len(joined) == len(b"".join(joined)) // CHUNK + 1


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("taken", [0, 1, 4])
def test_the_source_is_closed_once_wherever_it_is_left(
    make: Callable[..., Formatted], taken: int
) -> None:
    source = Source(*[ROW[make]] * 3)
    chunks = make(source)
    for _ in zip(range(taken), chunks):
        pass
    chunks.close()
    chunks.close()
    assert source.closed == 1
    assert list(chunks) == []


@pytest.mark.parametrize("make", FORMATS)
def test_the_iterator_of_an_iterable_is_closed_with_it(make: Callable[..., Formatted]) -> None:
    source = Source(ROW[make], ROW[make])
    chunks = make(Having(Taking(source)))
    next(iter(chunks))
    chunks.close()
    assert source.closed == 1


class Taking(Iterator[Any]):
    """Takes of a source, and closes it."""

    def __init__(self, source: Source) -> None:
        self._items = iter(source)
        self.close = source.close

    def __next__(self) -> Any:
        return next(self._items)


class Having:
    """Has an iterator, and nothing to close itself."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self._iterator


async def rows_of_another_world() -> Any:
    yield 1


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"a": 1}, "dict: put a single one into a list"),
        ("text", "str: put a single one into a list"),
        (b"bytes", "bytes: put a single one"),
        (None, "NoneType"),
        (7, "int"),
        (rows_of_another_world(), "async_generator: .* def and not async def"),
        (lazily, "function: call it"),
    ],
)
def test_what_has_no_rows_is_refused(make: Callable[..., Formatted], rows: Any, says: str) -> None:
    with pytest.raises(BodyError, match=rf"{make.__name__}\(\) takes an iterable, not {says}"):
        make(rows)
