"""The text/event-stream format: events become bytes and come back, however these are cut."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import cycle, pairwise
from typing import Any

import pytest
from apps.sse_corpus import as_read
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vento_wsgi import BodyError, Event, EventError, VentoError, decode, sse
from vento_wsgi.sse import COMMENT, encode


def read(*chunks: bytes, **options: int) -> list[Event]:
    return list(decode(chunks, **options))


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


# An event as bytes.


@pytest.mark.parametrize(
    ("event", "block"),
    [
        (Event("hello"), b"data: hello\n\n"),
        (Event(""), b"data: \n\n"),
        (Event(" hello "), b"data:  hello \n\n"),
        (Event(": hello"), b"data: : hello\n\n"),
        (Event("a\nb"), b"data: a\ndata: b\n\n"),
        (Event("a\r\nb\rc"), b"data: a\ndata: b\ndata: c\n\n"),
        (Event("a\n"), b"data: a\ndata: \n\n"),
        (Event("\n"), b"data: \ndata: \n\n"),
        (Event("a\n\r\n\rb"), b"data: a\ndata: \ndata: \ndata: b\n\n"),
        (Event("a\0b\x0bc\x0cd\x85e\u2028f"), "data: a\0b\x0bc\x0cd\x85e\u2028f\n\n".encode()),
        (Event("ä€😀"), b"data: \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n\n"),
        (Event(b"\xc3\xa4"), b"data: \xc3\xa4\n\n"),
        (Event(bytearray(b"ab")), b"data: ab\n\n"),
        (Event(memoryview(b"ab")), b"data: ab\n\n"),
        (Event({"text": "ä", "n": [1, None]}), b'data: {"text":"\xc3\xa4","n":[1,null]}\n\n'),
        (Event(["a\nb"]), b'data: ["a\\nb"]\n\n'),
        (Event(5), b"data: 5\n\n"),
        (Event(0), b"data: 0\n\n"),
        (Event(False), b"data: false\n\n"),
        (Event("x", event="tick"), b"event: tick\ndata: x\n\n"),
        (Event("x", event=""), b"data: x\n\n"),
        (Event(event="tick"), b"event: tick\n\n"),
        (Event("x", id="7"), b"id: 7\ndata: x\n\n"),
        (Event("x", id=7), b"id: 7\ndata: x\n\n"),
        (Event("x", id=""), b"id: \ndata: x\n\n"),
        (Event("x", id=" ä"), b"id:  \xc3\xa4\ndata: x\n\n"),
        (Event(retry=1500), b"retry: 1500\n"),
        (Event(retry=0), b"retry: 0\n"),
        (Event(comment="here"), b": here\n"),
        (Event(comment=""), b": \n"),
        (Event(comment="a\nb\r\nc"), b": a\n: b\n: c\n"),
        (
            Event("a\nb", event="tick", id="7", retry=1500, comment="here"),
            b"event: tick\nid: 7\ndata: a\ndata: b\nretry: 1500\n: here\n\n",
        ),
    ],
    ids=repr,
)
def test_an_event_is_encoded_as_one_block(event: Event, block: bytes) -> None:
    assert event.encode() == block


# What no event can carry is said when the event is made.


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "needs data, a type, an id, a retry or a comment"),
        ({"event": ""}, "needs data, a type, an id, a retry or a comment"),
        ({"data": "\ud800"}, "data is not Unicode text"),
        ({"data": ["\ud800"]}, "data is not Unicode text"),
        ({"data": b"\xff"}, "data is not UTF-8: .*; base64 it"),
        ({"data": object()}, "data cannot become JSON: .*object"),
        ({"data": datetime(2020, 1, 1)}, "data cannot become JSON: .*datetime"),
        ({"data": float("nan")}, "data cannot become JSON"),
        ({"data": {("a", "b"): 1}}, "data cannot become JSON"),
        ({"data": (c for c in "ab")}, "data cannot become JSON: .*generator"),
        ({"event": "a\nb"}, r"type cannot contain '\\n': 'a\\nb'"),
        ({"event": "a\rb"}, r"type cannot contain '\\r'"),
        ({"event": "\udfff"}, "type is not Unicode text"),
        ({"id": "a\nb"}, r"id cannot contain '\\n'"),
        ({"id": "a\rb"}, r"id cannot contain '\\r'"),
        ({"id": "a\0b"}, r"id cannot contain '\\x00'"),
        ({"id": "\ud800"}, "id is not Unicode text"),
        ({"comment": "\ud800"}, "comment is not Unicode text"),
        ({"retry": -1}, "retry is a whole number of milliseconds, not -1"),
        ({"retry": 1.5}, "retry is a whole number of milliseconds, not 1.5"),
        ({"retry": "1500"}, "retry is a whole number of milliseconds, not '1500'"),
        ({"retry": 10**15}, "retry is a number of milliseconds up to 999999999999999"),
        ({"retry": True}, "retry is a whole number of milliseconds, not True"),
    ],
)
def test_what_no_event_can_carry_is_refused_when_it_is_made(
    fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(EventError, match=why):
        Event(**fields)


def test_none_among_items_is_null_as_json_has_it() -> None:
    assert b"".join(sse([None, 0, ""])) == b"data: null\n\ndata: 0\n\ndata: \n\n"
    with pytest.raises(EventError, match="needs data"):
        Event(None)


def test_data_that_contains_itself_is_refused() -> None:
    data: list[object] = []
    data.append(data)
    with pytest.raises(EventError, match="data cannot become JSON"):
        Event(data)


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    data: list[object] = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(EventError, match="data cannot become JSON"):
        Event(data)


@pytest.mark.parametrize(
    "fields",
    [{"event": 5}, {"event": b"tick"}, {"id": b"7"}, {"id": 1.5}, {"id": True}, {"comment": 5}],
    ids=repr,
)
def test_a_field_that_is_not_text_is_refused_as_an_event_error(fields: dict[str, Any]) -> None:
    with pytest.raises(EventError, match="is text, not "):
        Event("x", **fields)


@pytest.mark.parametrize("digits", [1, 15, 16, 100, 5000])
def test_a_number_comes_back_unless_it_is_refused_when_the_event_is_made(digits: int) -> None:
    for field in ("retry", "id"):
        number: dict[str, Any] = {field: 10 ** (digits - 1)}
        try:
            event = Event(**number)
        except ValueError:  # from Python itself, where it has more digits than it converts
            continue
        assert read(event.encode()) == [event]


def test_an_event_error_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(EventError, ValueError)
    assert issubclass(EventError, VentoError)


def test_events_are_equal_by_their_fields() -> None:
    assert Event("a\r\nb", id=1) == Event("a\nb", id="1", event="")
    assert len({Event("a"), Event("a"), Event("a", id="1")}) == 2
    assert Event("a") != Event("b")
    assert Event("a") != "a"


@pytest.mark.parametrize(
    "event", [Event("a\n'b"), Event(event="t", id="", retry=0, comment="c"), Event({"a": 1})]
)
def test_an_event_shows_how_it_is_made(event: Event) -> None:
    assert eval(repr(event), {"Event": Event}) == event


# The examples of the WHATWG HTML standard, section 9.2.6.


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")], id="lines"),
        pytest.param(
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
            b"data:  third event\n",
            [Event(comment="test stream"), Event("first event", id="1"),
             Event("second event", id="")],
            id="a comment, an id, an id without value, and a block without its end",
        ),
        pytest.param(
            b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")], id="data without value"
        ),
        pytest.param(b"data:test\n\ndata: test\n\n", [Event("test")] * 2, id="one space"),
        pytest.param(
            b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
            [Event("73857293", event="add"), Event("2153", event="remove")],
            id="types",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [lambda stream: [stream], bytewise], ids=["whole", "bytewise"])
def test_the_examples_of_the_standard_are_read_as_it_says(
    stream: bytes, events: list[Event], cut: Callable[[bytes], list[bytes]]
) -> None:
    assert read(*cut(stream)) == events


# Streams of others.


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n\r\r\n\n", [], id="empty lines"),
        pytest.param(b"\xef\xbb\xbfdata: x\n\n", [Event("x")], id="byte order mark"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", [], id="two byte order marks"),
        pytest.param(
            b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [Event("x")], id="byte order mark in between"
        ),
        pytest.param(b"data: \xef\xbb\xbf\n\n", [Event("\ufeff")], id="byte order mark in data"),
        pytest.param(
            b":one\n: two\n:  three\n:\n\n",
            [Event(comment=text) for text in ("one", "two", " three", "")],
            id="comments",
        ),
        pytest.param(b"data: x\n: in between\ndata: y\n\n", [Event("x\ny", comment="in between")],
                     id="comment in between"),
        pytest.param(b"foo: bar\nfoo\ndata: x\nDATA: y\n data: z\ndata : z\n\n", [Event("x")],
                     id="unknown fields"),
        pytest.param(b"foo: bar\n\n", [], id="nothing but an unknown field"),
        pytest.param(b"data: x\ndata:  y\ndata:\tz\n\n", [Event("x\n y\n\tz")],
                     id="one space goes"),
        pytest.param(b"data: a:b: c\n\n", [Event("a:b: c")], id="colons"),
        pytest.param(b"data: a\0b\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8c\n\n",
                     [Event("a\0b\x0b\x0c\x1c\x85\u2028c")], id="what else splits lines in Python"),
        pytest.param(b"event: a\nevent: b\ndata: x\n\ndata: y\n\n",
                     [Event("x", event="b"), Event("y")], id="the last type holds, for one block"),
        pytest.param(b"event: a\nevent\ndata: x\n\n", [Event("x")], id="type taken back"),
        pytest.param(b"event: a\n\ndata: x\n\n", [Event(event="a"), Event("x")],
                     id="type without data"),
        pytest.param(b"event\n\n", [], id="nothing but an empty type"),
        pytest.param(b"id: 1\nid: 2\ndata: x\n\ndata: y\n\n", [Event("x", id="2"), Event("y")],
                     id="the last id holds"),
        pytest.param(b"id: 1\nid: a\0b\ndata: x\n\n", [Event("x", id="1")], id="id with NUL"),
        pytest.param(b"id: 1\n\n", [Event(id="1")], id="id without data"),
        pytest.param(b"id\n\n", [Event(id="")], id="id without value"),
        pytest.param(b"retry: 10\n\n", [Event(retry=10)], id="retry"),
        pytest.param(b"retry: " + b"0" * 20 + b"10\n\nretry: 000\n\n",
                     [Event(retry=10), Event(retry=0)], id="retries with leading zeros"),
        pytest.param(b"retry: 10\nretry: 1.5\nretry: -1\nretry:  1\nretry: 1 \nretry: 0x1\n"
                     b"retry: 1_0\nretry\nretry: \xd9\xa1\nretry: \xc2\xb2\n\n", [Event(retry=10)],
                     id="retries that are not digits"),
        pytest.param(b"data: a\xffb\n\n", [Event("a\ufffdb")], id="a byte that is not UTF-8"),
        pytest.param(b"data: \xed\xa0\x80\n\n", [Event("\ufffd" * 3)], id="a surrogate"),
        pytest.param(b"data: \xe2\x82\n\n", [Event("\ufffd")], id="a character cut off"),
        pytest.param(b"data: x\r\rdata: y\r\n\r\ndata: z\n\n", [Event("x"), Event("y"), Event("z")],
                     id="CR, CRLF and LF"),
        pytest.param(b"data: x\r\n\ndata: y\n\r\ndata: z\r\r\n", [Event("x"), Event("y"),
                     Event("z")], id="CR, CRLF and LF in one block"),
        pytest.param(b"data: x\n\ndata: lost", [Event("x")], id="a line without its end"),
        pytest.param(b"data: x\n\ndata: lost\n", [Event("x")], id="a block without its end"),
        pytest.param(b"data: x\n\nid: 2\nretry: 1\n", [Event("x")], id="fields without their end"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [lambda stream: [stream], bytewise], ids=["whole", "bytewise"])
def test_a_foreign_stream_is_read_as_the_standard_says(
    stream: bytes, events: list[Event], cut: Callable[[bytes], list[bytes]]
) -> None:
    assert read(*cut(stream)) == events


NASTY = (
    "\ufeff: ä\r\ndata: €\r\ndata: 😀\r\n\r\ndata: a\r\rid: \u2028\rdata:\r\r"
    "event: ü\ndata: \ndata: \n\ndata: x\r\n\ndata: y\n\r\nretry: 9\r\r\n: bye\n\n"
).encode()


def test_a_stream_reads_the_same_with_any_single_cut() -> None:
    whole = [
        Event(comment="ä"),
        Event("€\n😀"),
        Event("a"),
        Event("", id="\u2028"),
        Event("\n", event="ü"),
        Event("x"),
        Event("y"),
        Event(retry=9),
        Event(comment="bye"),
    ]
    for at in range(len(NASTY) + 1):
        assert read(NASTY[:at], b"", NASTY[at:]) == whole, at


# What is encoded comes back.

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine may take its time."""

characters = st.sampled_from("a \t\n\r:\0\ufeff\x0b\x85\u2028ä€😀")
text = st.text(characters | st.characters(exclude_categories=["Cs"]))
line = text.map(lambda value: value.replace("\r", "").replace("\n", ""))


@st.composite
def events(draw: st.DrawFn) -> Event:
    optional = {
        "data": text | st.dictionaries(text, st.none() | st.integers() | text),
        "event": line.filter(bool),
        "id": line.map(lambda value: value.replace("\0", "")) | st.integers(),
        "retry": st.integers(0, 10**15 - 1),
        "comment": text,
    }
    fields: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=optional).filter(bool))
    return Event(**fields)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream in pieces, some of them empty."""
    places = draw(st.lists(st.integers(0, len(stream)), max_size=30))
    edges = [0, *sorted(places), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


def terminated(stream: bytes, ends: Iterator[bytes]) -> bytes:
    """The stream with its LFs replaced by `ends`."""
    *lines, rest = stream.split(b"\n")
    assert rest == b""
    result, last = b"", b""
    for line in lines:
        end = next(ends)
        if last == b"\r" and not line and end == b"\n":
            end = b"\r\n"  # a LF right after a CR would end no line of its own
        result += line + end
        last = end
    return result


@patient
@given(st.lists(events()), st.data())
def test_events_come_back_however_their_bytes_are_cut(
    given: list[Event], data: st.DataObject
) -> None:
    stream = b"".join(event.encode() for event in given)
    assert read(*data.draw(cut(stream))) == list(as_read(given))


@patient
@given(
    st.lists(events()),
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1, max_size=20),
    st.data(),
)
@example([Event("a"), Event("b\nc")], [b"\r"], None)
@example([Event("a"), Event("b\nc")], [b"\r\n"], None)
@example([Event("a"), Event("b\nc")], [b"\r", b"\n"], None)
def test_events_come_back_whatever_ends_their_lines(
    given: list[Event], ends: list[bytes], data: st.DataObject | None
) -> None:
    stream = b"".join(event.encode() for event in given)
    changed = terminated(stream, cycle(ends))
    assert read(*(data.draw(cut(changed)) if data else bytewise(changed))) == list(as_read(given))


@patient
@given(st.lists(st.sampled_from([b"data", b"id", b"retry", b"event", b":", b" ", b"\r", b"\n",
       b"\0", b"7", b"\xc3\xa4", b"\xff", b"\xef\xbb\xbf"])).map(b"".join), st.data())  # fmt: skip
def test_any_bytes_read_the_same_however_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    whole = read(stream)
    assert read(*data.draw(cut(stream))) == whole
    assert read(*bytewise(stream)) == whole


# An event is there as soon as its empty line is.


@pytest.mark.parametrize(
    ("block", "chunks"),
    [
        pytest.param(b"data: x\n\n", [b"data: x\n", b"\n", b"data"], id="LF"),
        pytest.param(b"data: x\r\r", [b"data: x\r\r", b"data"], id="CR at the end of a chunk"),
        pytest.param(b"data: x\r\r", [b"data: x", b"\r", b"\r", b"\r"], id="each CR for itself"),
        pytest.param(b"data: x\r\n\r", [b"data: x\r\n\r", b"\n"], id="CRLF between its halves"),
        pytest.param(b"data: x\r\n\r", bytewise(b"data: x\r\n\r\n"), id="CRLF byte by byte"),
        pytest.param(b"data: x\n\n", bytewise(b"data: x\n\n:"), id="LF byte by byte"),
        pytest.param(b"\xef\xbb\xbfdata: x\n\n", bytewise(b"\xef\xbb\xbfdata: x\n\n:"),
                     id="byte order mark byte by byte"),
        pytest.param(b"data: x\n\ndata: y\n\ndata: z", [b"data: x\n\ndata: y\n\ndata: z", b"\n"],
                     id="the first of several in a chunk"),
    ],
)  # fmt: skip
def test_an_event_comes_as_soon_as_its_empty_line_has_come(
    block: bytes, chunks: list[bytes]
) -> None:
    taken = []

    def source() -> Iterator[bytes]:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk

    assert next(decode(source())) == Event("x")
    assert b"".join(taken) == block


# A block that is too large.


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("size", [1, 7, 1000], ids=lambda size: f"chunks of {size}")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"data: " + b"x" * 95 + b"\n\n", id="one line"),
        pytest.param(b"data\n" * 26 + b"\n", id="many lines"),
        pytest.param(b": " + b"x" * 99 + b"\n\n", id="comment"),
        pytest.param(b"foo: " + b"x" * 96 + b"\n\n", id="field of no meaning"),
    ],
)
def test_a_block_over_the_limit_is_an_error_however_it_is_cut(block: bytes, size: int) -> None:
    with pytest.raises(EventError, match="an event is longer than 100 characters: raise max_event"):
        read(*pieces(b"data: x\n\n" + block, size), max_event=100)


def test_a_block_without_end_is_given_up_before_it_ends() -> None:
    def source() -> Iterator[bytes]:
        for _ in range(20):
            yield b"data: xxxx"
        pytest.fail("it went on reading")

    with pytest.raises(EventError, match="longer than 100 characters"):
        list(decode(source(), max_event=100))


@pytest.mark.parametrize("size", [1, 7, 1000], ids=lambda size: f"chunks of {size}")
@pytest.mark.parametrize(
    ("block", "events"),
    [
        pytest.param(b"data: " + b"x" * 94 + b"\n\n", [Event("x" * 94)], id="data"),
        pytest.param(b"foo: " + b"x" * 95 + b"\n\n", [], id="a field of no meaning"),
        pytest.param(b"event\n" * 20 + b"\n", [], id="empty types"),
    ],
)
def test_blocks_within_the_limit_are_read_however_many_they_are(
    block: bytes, events: list[Event], size: int
) -> None:
    assert read(*pieces(block * 50, size), max_event=100) == events * 50


def test_the_limit_is_far_past_any_event_by_default() -> None:
    event = Event("x" * 4_000_000)
    assert read(*pieces(event.encode(), 65_536)) == [event]


# Streams of events: sse() and encode().


def test_sse_makes_an_event_of_each_item() -> None:
    items = ["a\nb", b"c", {"n": 1}, 5, Event("d", id="1"), Event(comment="e")]
    assert list(sse(items)) == [
        b"data: a\ndata: b\n\n",
        b"data: c\n\n",
        b'data: {"n":1}\n\n',
        b"data: 5\n\n",
        b"id: 1\ndata: d\n\n",
        b": e\n",
    ]


def test_sse_gives_an_empty_text_as_an_event_too() -> None:
    assert list(sse(["", "a"])) == [b"data: \n\n", b"data: a\n\n"]


@pytest.mark.parametrize("body", [{"a": 1}, None, 5, Event("x")], ids=repr)
def test_sse_refuses_what_is_no_series_of_events(body: Any) -> None:
    with pytest.raises(BodyError):
        sse(body)


@pytest.mark.parametrize("item", [Event("x"), "text", b"bytes"], ids=repr)
def test_sse_says_how_to_send_a_single_item(item: Any) -> None:
    with pytest.raises(BodyError) as refusal:
        sse(item)
    assert f"[{item!r}]" in str(refusal.value)


def test_sse_takes_nothing_before_the_first_event_is_asked_for() -> None:
    taken = []

    def items() -> Iterator[str]:
        taken.append(True)
        yield "a"

    stream = sse(items())
    assert taken == []
    assert next(stream) == b"data: a\n\n"
    assert taken == [True]


def left(stream: Iterator[bytes]) -> None:
    next(stream)


def exhausted(stream: Iterator[bytes]) -> None:
    list(stream)


@pytest.mark.parametrize("ending", [left, exhausted])
def test_sse_closes_its_source(ending: Callable[[Iterator[bytes]], object]) -> None:
    ended = []

    def items() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            ended.append(True)

    source = items()
    stream: Any = sse(source)
    ending(stream)
    stream.close()
    stream.close()
    assert ended == [True]
    assert list(stream) == []


def test_sse_closes_a_source_that_was_never_started() -> None:
    class Source(list[str]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    source = Source(["a"])
    stream: Any = sse(source)
    stream.close()
    assert source.closed == 1
    assert list(stream) == []


@pytest.mark.parametrize(
    ("item", "chunk"),
    [(Event("x"), b"data: x\n\n"), ("data: x\n\n", b"data: x\n\n"), (b"data: x", b"data: x")],
)
def test_encode_leaves_text_and_bytes_as_they_are(item: object, chunk: bytes) -> None:
    assert encode(item) == chunk


def test_encode_refuses_other_items() -> None:
    with pytest.raises(BodyError, match="dict"):
        encode({"a": 1})


def test_a_stream_opens_with_a_comment_that_no_client_sees() -> None:
    seen: Iterable[Event] = read(COMMENT, Event("x").encode())
    assert [event for event in seen if event.data is not None] == [Event("x")]
