"""The request's body: JSON, text, forms, pieces; its limit, and its end."""

import encodings.aliases
import io
import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app
from werkzeug.wrappers import Request

from vento_wsgi import Context, Response, charsets, create_app, create_router

LIMIT = 1000


class Pieces(io.RawIOBase):
    """An input as servers give it: no more than `pieces`, one at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces[0]
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        self._pieces[0] = piece[size:]
        if not self._pieces[0]:
            del self._pieces[0]
        return size


class Broken(io.RawIOBase):
    """An input whose connection breaks."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise ConnectionResetError


def environ(body: Any = b"", content_type: str = "", length: int | None = None) -> dict[str, Any]:
    """The environ of a POST: `body` with a length, or chunked, as an input of pieces."""
    given = EnvironBuilder("/", method="POST").get_environ()
    if content_type:
        given["CONTENT_TYPE"] = content_type
    if isinstance(body, bytes):
        length = len(body) if length is None else length
        body = io.BytesIO(body)
    given["wsgi.input"] = body
    if length is None:
        given.pop("CONTENT_LENGTH", None)
        given["wsgi.input_terminated"] = True
    else:
        given["CONTENT_LENGTH"] = str(length)
    return given


def context(*args: Any, limit: int | None = LIMIT) -> Context:
    return Context(environ(*args), limit)


def post(handler: Callable[[Context], Response], *args: Any) -> TestResponse:
    app, router = create_app(max_content_length=LIMIT), create_router()
    router.post("/", handler)
    app.use(router)
    given = environ(*args)
    body, status, headers = run_wsgi_app(app, given, buffered=True)
    return TestResponse(body, status, headers, Request(given))


# JSON.


def echo_json(ctx: Context) -> Response:
    return ctx.json(ctx.request.json())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_json_is_what_was_sent(value: object) -> None:
    assert context(json.dumps(value).encode(), limit=None).request.json() == value


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/problem+json", "text/plain", ""]
)
def test_json_is_read_whatever_its_content_type(content_type: str) -> None:
    assert post(echo_json, b'{"a": [1, "\xc3\xa9"]}', content_type).json == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "line 1, column"),
        (b'{"a":\n  1,\n  b: 2}', "line 3, column 3"),
        (b"[1]\n[2]", "line 2, column 1"),
        (b"\n'a'", "line 2, column 1"),
        (b'"a\nb"', "line 1, column 3"),
    ],
)
def test_malformed_json_is_a_400_that_says_where(body: bytes, where: str) -> None:
    response = post(echo_json, body, "application/json")
    assert response.status_code == 400
    assert response.mimetype == "application/problem+json"
    problem = json.loads(response.data)
    assert (problem["status"], problem["title"]) == (400, "Bad Request")
    assert where in problem["detail"]


@pytest.mark.parametrize("body", [b"NaN", b"[-Infinity]", b'{"a": Infinity}'])
def test_numbers_that_json_does_not_have_are_refused(body: bytes) -> None:
    response = post(echo_json, body)
    assert response.status_code == 400
    assert b"is not a JSON number" in response.data


@pytest.mark.parametrize("body", [b"[" * 100_000, b"1" * 5000], ids=["deep", "long"])
def test_json_that_python_cannot_hold_is_a_400(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not JSON"):
        context(body, "", None, limit=None).request.json()


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=UTF-8", "; charset=utf8"])
def test_a_byte_order_mark_goes_before_json_and_text(charset: str) -> None:
    body = b"\xef\xbb\xbf[1]"
    assert context(body, f"application/json{charset}").request.json() == [1]
    assert context(body, f"text/plain{charset}").request.text() == "[1]"


def test_json_can_be_had_twice() -> None:
    request = context(b"[1]").request
    assert request.json() == request.json() == [1]


# Text.


def echo_text(ctx: Context) -> Response:
    return ctx.text(ctx.request.text())


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("", "utf-8"),
        ("; charset=utf-8", "utf-8"),
        ('; charset="ISO-8859-1"', "latin-1"),
        ("; charset=utf-16", "utf-16"),
        ("; charset=windows-1252", "cp1252"),
    ],
)
def test_text_is_read_in_its_charset(charset: str, encoding: str) -> None:
    response = post(echo_text, "größe".encode(encoding), f"text/plain{charset}")
    assert response.text == "größe"


@pytest.mark.parametrize("handler", [echo_text, echo_json])
def test_bytes_that_are_not_text_are_a_400_that_says_where(
    handler: Callable[[Context], Response],
) -> None:
    response = post(handler, b'"gr\xf6\xdfe"', "text/plain")
    assert response.status_code == 400
    assert "at byte 3" in json.loads(response.data)["detail"]


@pytest.mark.parametrize(
    "charset", ["klingon", "", "hex", "rot13", "../../etc/passwd", "é", "x" * 99]
)
@pytest.mark.parametrize("handler", [echo_text, echo_json])
def test_a_charset_that_there_is_not_is_a_415(
    handler: Callable[[Context], Response], charset: str
) -> None:
    response = post(handler, b"[1]", f'text/plain; charset="{charset}"')
    assert response.status_code == 415
    assert response.mimetype == "application/problem+json"


def python_codecs() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(encodings.__path__)]
    return sorted({*names, *encodings.aliases.aliases, *encodings.aliases.aliases.values()})


@pytest.mark.parametrize("handler", [echo_text, echo_json])
def test_only_the_charsets_of_the_web_are_read(handler: Callable[[Context], Response]) -> None:
    # https://encoding.spec.whatwg.org/#names-and-labels
    refused = {"utf-7", "utf_7", "utf-32", "utf_32", "punycode", "idna", "rot13", "hex", "zlib"}
    refused |= {"unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "charmap"}
    refused |= {"cp037", "cp500", "uu", "quopri", "base64", "bz2", "palmos", "hz", "iso-2022-kr"}
    for name in {*python_codecs(), *refused}:
        response = post(handler, b"[1]", f"text/plain; charset={name}")
        assert response.status_code in ((415,) if name in refused else (200, 400, 415))


@pytest.mark.parametrize(
    ("charset", "encoding", "body"),
    [
        ("shift_jis", "cp932", "日本①"),
        ("x-sjis", "cp932", "日本"),
        ("EUC-JP", "euc-jp", "日本"),
        ("gb2312", "gb18030", "中文€"),
        ("big5", "big5hkscs", "中文"),
        ("ks_c_5601-1987", "cp949", "한국"),
        ("koi8-r", "koi8-r", "привет"),
        ("windows-874", "cp874", "ไทย"),
        ("latin1", "latin-1", "größe"),
        ("utf-16be", "utf-16-be", "größe"),
        ("x-mac-cyrillic", "mac-cyrillic", "привет"),
    ],
)
def test_the_charsets_of_the_web_are_read(charset: str, encoding: str, body: str) -> None:
    response = post(echo_text, body.encode(encoding), f"text/plain; charset={charset}")
    assert response.text == body


def test_python_has_a_codec_for_every_label() -> None:
    for label, name in charsets._CODECS.items():
        assert b"a".decode(name, "replace"), label


# Forms.


BOUNDARY = "--boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
PARTS = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="file"; filename="größe.txt"\r\n'
    "Content-Type: text/plain\r\n\r\ncontents\r\n"
    f"--{BOUNDARY}--\r\n"
).encode()


def test_the_fields_of_a_form_that_is_urlencoded() -> None:
    body = b"a=1&b=two+words&a=3&e=%C3%A9&empty="
    request = context(body, "application/x-www-form-urlencoded").request
    form = request.form()
    assert form.to_dict(flat=False) == {
        "a": ["1", "3"],
        "b": ["two words"],
        "e": ["é"],
        "empty": [""],
    }
    assert not request.files


@pytest.mark.parametrize("chunked", [False, True])
def test_the_fields_and_files_of_a_form_in_parts(chunked: bool) -> None:
    body = Pieces(PARTS[:50], PARTS[50:]) if chunked else PARTS
    request = context(body, MULTIPART).request
    with closing(request):
        assert request.form().to_dict() == {"a": "1"}
        file = request.files["file"]
        assert (file.filename, file.mimetype, file.read()) == (
            "größe.txt",
            "text/plain",
            b"contents",
        )


def test_a_form_can_be_had_twice_and_its_files_before_and_after() -> None:
    request = context(PARTS, MULTIPART).request
    with closing(request):
        assert list(request.files) == ["file"]
        assert request.form() is request.form()
        assert request.form()["a"] == "1"
        assert request.files is request.files
        assert list(request.files) == ["file"]


def test_a_form_can_be_had_after_its_bytes() -> None:
    request = context(b"a=1", "application/x-www-form-urlencoded").request
    assert request.get_data() == b"a=1"
    assert request.form()["a"] == "1"


def test_files_that_were_sent_are_closed_when_the_response_ends() -> None:
    sent: list[FileStorage] = []

    def handler(ctx: Context) -> Response:
        sent.append(ctx.request.files["file"])
        return ctx.stream(file.read(1) for file in sent)

    assert post(handler, PARTS, MULTIPART).data == b"c"
    assert sent[0].closed


def test_a_field_of_parts_may_be_as_long_as_the_body() -> None:
    value = "x" * 2_000_000
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n{value}\r\n'
        f"--{BOUNDARY}--\r\n"
    ).encode()
    request = context(body, MULTIPART, limit=len(body)).request
    assert request.form()["a"] == value
    with pytest.raises(RequestEntityTooLarge):
        context(body, MULTIPART, limit=len(body) - 1).request.form()


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
def test_a_form_has_a_thousand_fields_at_most(kind: str) -> None:
    def form(fields: int) -> Any:
        if kind == "urlencoded":
            body, content_type = b"&".join([b"a=1"] * fields), "application/x-www-form-urlencoded"
        else:
            part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
            body, content_type = f"{part * fields}--{BOUNDARY}--\r\n".encode(), MULTIPART
        return context(body, content_type, limit=None).request

    assert len(form(1000).form().getlist("a")) == 1000
    for fields in (1001, 100_000):
        with pytest.raises(RequestEntityTooLarge):
            form(fields).form()
    request = form(1001)
    request.max_form_parts = None
    assert len(request.form().getlist("a")) == 1001


URLENCODED = "application/x-www-form-urlencoded"


@given(st.text("%&=+aF0\r\n _é~2g"))
@example("a=%zz&b=100%&c=%C3%A9&d=%e9&=&==&a")
def test_a_form_that_is_urlencoded_reads_as_urllib_does(body: str) -> None:
    pairs = parse_qsl(body, keep_blank_values=True, errors="replace")
    assert context(body.encode(), URLENCODED).request.form() == MultiDict(pairs)


@given(st.binary())
def test_any_bytes_are_a_form_that_is_urlencoded(body: bytes) -> None:
    context(body, URLENCODED).request.form()


def test_escapes_are_decoded_in_bulk() -> None:
    for escape, value in (("%41", "A"), ("%ff", "\ufffd")):
        body = b"a=" + escape.encode() * 500_000
        assert context(body, URLENCODED, limit=None).request.form()["a"] == value * 500_000
    with pytest.raises(BadRequest, match="percent sign"):
        context(b"%" * 500_000, URLENCODED, limit=None).request.form()


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json"])
def test_what_is_no_form_has_no_fields(content_type: str) -> None:
    request = context(b"a=1", content_type).request
    assert not request.form()
    assert not request.files


def test_values_says_what_to_use_instead() -> None:
    request = context(b"a=1", "application/x-www-form-urlencoded").request
    with pytest.raises(AttributeError, match=r"args .* form\(\)"):
        _ = request.values


# The limit.


def echo_data(ctx: Context) -> Response:
    return Response(ctx.request.get_data())


def echo_chunks(ctx: Context) -> Response:
    return Response(b"".join(ctx.request.chunks()))


def echo_form(ctx: Context) -> Response:
    return ctx.json(ctx.request.form())


READERS = [echo_data, echo_text, echo_json, echo_chunks, echo_form]
readers = pytest.mark.parametrize("reader", READERS)
FORM = "application/x-www-form-urlencoded"


@readers
@pytest.mark.parametrize("content_type", [FORM, MULTIPART])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_limit_is_a_413(
    reader: Callable[[Context], Response], content_type: str, chunked: bool
) -> None:
    body = b"1" * (LIMIT + 1)
    response = post(reader, Pieces(body[:600], body[600:]) if chunked else body, content_type)
    assert response.status_code == 413
    assert response.mimetype == "application/problem+json"
    assert f"{LIMIT} bytes" in json.loads(response.data)["detail"]


@readers
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_as_long_as_the_limit_is_read(
    reader: Callable[[Context], Response], chunked: bool
) -> None:
    body = b"1" * LIMIT
    response = post(reader, Pieces(body[:600], body[600:]) if chunked else body, FORM)
    assert response.status_code == 200
    assert body in response.data


def test_nothing_is_read_of_a_body_whose_length_is_past_the_limit() -> None:
    body = io.BytesIO(b"1" * 9)
    with pytest.raises(RequestEntityTooLarge):
        context(body, "", LIMIT + 1).request.get_data()
    assert body.tell() == 0


def test_no_more_is_read_of_a_chunked_body_than_it_takes_to_know() -> None:
    body = Pieces(*[b"1" * 400] * 5)
    with pytest.raises(RequestEntityTooLarge):
        context(body).request.get_data()
    assert len(body.read()) == 2 * 400


@pytest.mark.parametrize("limit", [0, 1, LIMIT * 10, None])
def test_a_handler_may_set_a_limit_of_its_own(limit: int | None) -> None:
    def handler(ctx: Context) -> Response:
        ctx.request.max_content_length = limit
        return echo_data(ctx)

    for size in (1, 2, LIMIT * 2):
        response = post(handler, b"1" * size)
        assert response.status_code == (413 if limit is not None and size > limit else 200)


def test_an_application_without_a_limit_takes_all() -> None:
    assert len(context(b"1" * 10**6, "", None, limit=None).request.get_data()) == 10**6


def test_a_body_past_the_limit_that_nobody_reads_is_no_error() -> None:
    assert post(lambda ctx: ctx.text("unread"), b"1" * 5000).status_code == 200


# The end.


@readers
def test_a_body_that_ends_early_is_a_400(reader: Callable[[Context], Response]) -> None:
    response = post(reader, b"1", FORM, 10)
    assert response.status_code == 400
    assert "after 1 of 10 bytes" in json.loads(response.data)["detail"]


@readers
@pytest.mark.parametrize("length", [None, 10])
def test_a_body_whose_connection_breaks_is_a_400(
    reader: Callable[[Context], Response], length: int | None
) -> None:
    assert post(reader, Broken(), FORM, length).status_code == 400


@readers
def test_a_body_that_ended_early_is_not_taken_for_whole_at_a_second_reading(
    reader: Callable[[Context], Response],
) -> None:
    request = context(b"1", FORM, 10)
    for _ in range(3):
        with pytest.raises(BadRequest):
            reader(request)


@readers
def test_a_body_past_the_limit_is_not_taken_for_whole_at_a_second_reading(
    reader: Callable[[Context], Response],
) -> None:
    request = context(Pieces(b"1" * (LIMIT + 1)), FORM)
    for _ in range(3):
        with pytest.raises(RequestEntityTooLarge):
            reader(request)


@pytest.mark.parametrize("body", [b"", Pieces()])
def test_an_empty_body_is_empty(body: Any) -> None:
    request = context(body).request
    assert request.text() == ""
    assert list(request.chunks()) == []


def test_a_request_without_a_length_has_no_body_unless_the_server_knows_its_end() -> None:
    given = environ(Broken())
    del given["wsgi.input_terminated"]
    assert Context(given, LIMIT).request.get_data() == b""


@pytest.mark.parametrize("length", [3, 0])
def test_what_follows_the_body_is_left_alone(length: int) -> None:
    source = io.BytesIO(b"123GET / HTTP/1.1")
    request = context(source, "", length).request
    assert request.get_data() == b"123"[:length]
    assert request.stream.read() == b""
    assert source.tell() == length


@pytest.mark.parametrize("value", ["-1", "ten", "", "1.0", "+3", "٣"])
def test_a_length_that_is_no_number_is_no_body(value: str) -> None:
    given = environ(b"123")
    given["CONTENT_LENGTH"] = value
    assert Context(given, LIMIT).request.get_data() == b""


# Pieces.


def test_pieces_come_as_they_arrive() -> None:
    arrived: list[str] = []

    class Arriving(Pieces):
        def readinto(self, buffer: Any) -> int:
            arrived.append("read")
            return super().readinto(buffer)

    chunks = context(Arriving(b"one", b"two")).request.chunks()
    assert arrived == []
    assert (next(chunks), arrived) == (b"one", ["read"])
    assert (next(chunks), arrived) == (b"two", ["read"] * 2)
    assert list(chunks) == []


def test_pieces_are_no_larger_than_asked_for() -> None:
    assert list(context(Pieces(b"12345", b"6")).request.chunks(2)) == [b"12", b"34", b"5", b"6"]
    assert list(context(b"12345").request.chunks(2)) == [b"12", b"34", b"5"]


@given(st.lists(st.binary(max_size=20)), st.integers(1, 10), st.booleans())
def test_pieces_make_up_the_body(pieces: list[bytes], size: int, chunked: bool) -> None:
    body = b"".join(pieces)
    source = Pieces(*filter(None, pieces))
    request = context(source, "", None if chunked else len(body)).request
    got = list(request.chunks(size))
    assert b"".join(got) == body
    assert all(0 < len(piece) <= size for piece in got)


def test_pieces_go_on_where_reading_stopped() -> None:
    request = context(Pieces(b"one", b"two", b"three")).request
    assert request.stream.read(2) == b"on"
    assert next(request.chunks()) == b"e"
    assert list(request.chunks()) == [b"two", b"three"]
    assert list(request.chunks()) == []


def test_pieces_can_be_read_while_the_response_streams() -> None:
    def handler(ctx: Context) -> Response:
        def upper() -> Iterator[bytes]:
            for piece in ctx.request.chunks():
                yield piece.upper()

        return ctx.stream(upper())

    assert post(handler, Pieces(b"one", b"two")).data == b"ONETWO"


def test_the_limit_ends_the_pieces() -> None:
    chunks = context(Pieces(b"1" * 600, b"2" * 600)).request.chunks()
    assert next(chunks) == b"1" * 600
    with pytest.raises(HTTPException) as refused:
        next(chunks)
    assert refused.value.code == 413
