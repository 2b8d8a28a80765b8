"""Files as bodies: length, validators, preconditions, ranges, names, and how they are closed.

Most tests run twice, on a server that has no wsgi.file_wrapper and on one that has it. The
numbers in comments are sections of RFC 9110.
"""

import email
import gzip
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from unittest.mock import Mock
from wsgiref.util import FileWrapper

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import parse_options_header
from werkzeug.test import Client, EnvironBuilder, TestResponse

from vento_wsgi import Context, Response, StreamAborted, create_app, create_router
from vento_wsgi.app import App

DATA = bytes(range(256)) * 4
MODIFIED = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"
AFTER = "Tue, 14 Nov 2023 22:13:21 GMT"
LARGE = 300_000  # several reads long

Handler = Callable[[Context], Response]
Middleware = Callable[[Context, Callable[[], Any]], Any]


def application(handler: Handler, *middleware: Middleware) -> App:
    app, router = create_app(), create_router()
    router.route("/", handler, methods=["GET", "POST"])
    for layer in middleware:
        app.use(layer)
    app.use(router)
    return app


class Server:
    """Answers one request, with `environ` being what it offers an application."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ

    def send(self, handler: Handler, method: str = "GET", **headers: str) -> TestResponse:
        """The whole response of `handler`; ``If_Match="…"`` is a header."""
        return Client(application(handler)).open(
            "/",
            method=method,
            headers=[(name.replace("_", "-"), value) for name, value in headers.items()],
            environ_overrides=self.environ,
            buffered=True,
        )

    def start(
        self, handler: Handler, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """What the application gives the server, of which nothing was taken yet."""
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        environ = EnvironBuilder("/", method=method, headers=fields).get_environ()
        start_response = Mock()
        body = application(handler)({**environ, **self.environ}, start_response)
        status, sent = start_response.call_args.args
        return int(status.split()[0]), dict(sent), body


PLAIN = Server({})
WRAPPING = Server({"wsgi.file_wrapper": FileWrapper})


@pytest.fixture(params=[PLAIN, WRAPPING], ids=["plain", "file_wrapper"])
def server(request: pytest.FixtureRequest) -> Server:
    given: Server = request.param
    return given


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(LARGE))
    return path


@pytest.fixture
def file(path: Path) -> Handler:
    return lambda ctx: ctx.file(path)


@pytest.fixture
def etag(file: Handler) -> str:
    return PLAIN.send(file).headers["ETag"]


def in_memory(ctx: Context) -> Response:
    return ctx.stream(io.BytesIO(DATA))


# What has a length, and what is a plain stream.


def buffered(path: Path) -> IO[bytes]:
    return path.open("rb")


def unbuffered(path: Path) -> IO[bytes]:
    return path.open("rb", buffering=0)


def for_update(path: Path) -> IO[bytes]:
    return path.open("r+b")


def temporary(path: Path) -> IO[bytes]:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(path.read_bytes())
    file.seek(0)
    return file


def unnamed(path: Path) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(path.read_bytes())
    file.seek(0)
    return file


def memory(path: Path) -> IO[bytes]:
    return io.BytesIO(path.read_bytes())


opened = pytest.mark.parametrize(
    "opened", [buffered, unbuffered, for_update, temporary, unnamed, memory]
)


@opened
@pytest.mark.parametrize("position", [0, 1, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_a_file_is_sent_from_where_it_stands_to_its_end(
    opened: Callable[[Path], IO[bytes]], position: int, path: Path, server: Server
) -> None:
    body = opened(path)
    body.seek(position)
    response = server.send(lambda ctx: ctx.stream(body, "image/png"))
    assert response.data == DATA[position:]
    assert response.headers["Content-Length"] == str(len(DATA[position:]))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Type"] == "image/png"
    assert body.closed


@opened
def test_a_file_that_was_read_from_is_sent_from_there(
    opened: Callable[[Path], IO[bytes]],
    path: Path,
    server: Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = opened(path)
    assert body.read(100) == DATA[:100]
    response = server.send(lambda ctx: ctx.stream(body), Range="bytes=0-9")
    assert (response.status_code, response.data) == (206, DATA[100:110])
    assert response.headers["Content-Range"] == f"bytes 0-9/{len(DATA) - 100}"
    assert body.closed
    assert not caplog.records


@pytest.mark.parametrize("opened", [for_update, temporary, unnamed])
def test_what_was_written_to_a_file_is_sent_though_it_was_not_flushed(
    opened: Callable[[Path], IO[bytes]], path: Path, server: Server
) -> None:
    body = opened(path)
    body.read(4)
    body.write(b"written")
    body.seek(2)
    response = server.send(lambda ctx: ctx.stream(body))
    assert response.data == DATA[2:4] + b"written" + DATA[11:]


@pytest.mark.parametrize("opened", [buffered, unbuffered, for_update, temporary, unnamed])
def test_a_regular_file_has_validators(opened: Callable[[Path], IO[bytes]], path: Path) -> None:
    response = PLAIN.send(lambda ctx: ctx.stream(opened(path)))
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', response.headers["ETag"])  # 8.8.3
    parsedate_to_datetime(response.headers["Last-Modified"])


def test_bytes_in_memory_have_no_validators_of_their_own() -> None:
    response = PLAIN.send(in_memory)
    assert not {"ETag", "Last-Modified"} & set(response.headers.keys())


def test_last_modified_is_the_time_of_the_file(file: Handler) -> None:
    assert PLAIN.send(file).headers["Last-Modified"] == DATE


def test_the_entity_tag_stays_while_the_file_does(file: Handler, etag: str) -> None:
    assert PLAIN.send(file).headers["ETag"] == etag


@pytest.mark.parametrize("position", [1, 2])
def test_another_position_has_another_entity_tag(path: Path, etag: str, position: int) -> None:
    def later(ctx: Context) -> Response:
        body = path.open("rb")
        body.seek(position)
        return ctx.stream(body)

    assert PLAIN.send(later).headers["ETag"] != etag


def test_a_change_within_the_same_second_changes_the_entity_tag(
    path: Path, file: Handler, etag: str
) -> None:
    os.utime(path, ns=(0, MODIFIED * 10**9 + 1))
    assert PLAIN.send(file).headers["Last-Modified"] == DATE
    assert PLAIN.send(file).headers["ETag"] != etag


def test_a_change_of_size_changes_the_entity_tag(path: Path, file: Handler, etag: str) -> None:
    with path.open("ab") as more:
        more.write(b"more")
    os.utime(path, (MODIFIED, MODIFIED))
    assert PLAIN.send(file).headers["ETag"] != etag


def zipped(path: Path) -> Any:
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return gzip.open(packed)


def buffered_over_zipped(path: Path) -> Any:
    return io.BufferedReader(zipped(path))


def pipe(path: Path) -> Any:
    reader, writer = os.pipe()
    os.write(writer, path.read_bytes())
    os.close(writer)
    return open(reader, "rb")


class Halved(io.FileIO):
    """Reads otherwise than its descriptor does."""

    def read(self, size: int | None = -1, /) -> bytes:
        return (super().read(-1 if size is None else size) or b"")[::2]


class Reader:
    """No more than read()."""

    def __init__(self, path: Path) -> None:
        self._left = [path.read_bytes(), b""]

    def read(self, _size: int) -> bytes:
        return self._left.pop(0)


@pytest.mark.parametrize(
    ("opened", "sent"),
    [
        (zipped, DATA),
        (buffered_over_zipped, DATA),
        (pipe, DATA),
        (Reader, DATA),
        (Halved, DATA[::2]),
    ],
)
def test_what_reads_otherwise_than_its_descriptor_is_a_plain_stream(
    opened: Callable[[Path], Any], sent: bytes, path: Path, server: Server
) -> None:
    response = server.send(lambda ctx: ctx.stream(opened(path)), Range="bytes=0-1")
    assert (response.status_code, response.data) == (200, sent)
    plain = {"Content-Length", "Accept-Ranges", "ETag", "Last-Modified"}
    assert not plain & set(response.headers.keys())


def test_a_text_file_is_a_plain_stream_of_utf_8(tmp_path: Path, server: Server) -> None:
    (tmp_path / "text").write_text("größe\nzwei\n", "utf-16")
    response = server.send(
        lambda ctx: ctx.stream((tmp_path / "text").open(encoding="utf-16"), "text/plain"),
        Range="bytes=0-1",
    )
    assert (response.status_code, response.data.decode()) == (200, "größe\nzwei\n")
    assert "Content-Length" not in response.headers


def test_a_length_that_the_handler_gives_for_a_file_is_not_believed(path: Path) -> None:
    response = PLAIN.send(lambda ctx: ctx.file(path, headers={"Content-Length": "3"}))
    assert response.headers.getlist("Content-Length") == [str(len(DATA))]
    assert response.data == DATA


def test_validators_that_the_handler_gives_are_kept(path: Path) -> None:
    given = {"ETag": '"mine"', "Last-Modified": BEFORE}
    handler: Handler = lambda ctx: ctx.file(path, headers=given)  # noqa: E731
    response = PLAIN.send(handler)
    assert response.headers["ETag"] == '"mine"'
    assert response.headers["Last-Modified"] == BEFORE
    assert PLAIN.send(handler, If_None_Match='"mine"').status_code == 304


# HEAD, other statuses, other methods.


def test_head_has_the_headers_of_get_and_no_body(file: Handler, server: Server) -> None:
    get, head = server.send(file), server.send(file, "HEAD")
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers == get.headers


def test_head_ignores_a_range(file: Handler, server: Server) -> None:
    response = server.send(file, "HEAD", Range="bytes=0-9")
    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(len(DATA))


def test_post_ignores_a_range(file: Handler, server: Server) -> None:
    response = server.send(file, "POST", Range="bytes=0-9")
    assert (response.status_code, response.data) == (200, DATA)


@pytest.mark.parametrize("header", ["If_None_Match", "If_Modified_Since"])
def test_post_is_never_not_modified(file: Handler, etag: str, header: str) -> None:
    # 13.1.2 gives 304 to GET and HEAD alone, 13.1.3 is for them alone
    response = PLAIN.send(file, "POST", **{header: etag if header == "If_None_Match" else DATE})
    assert response.status_code != 304


@pytest.mark.parametrize("status", [201, 404])
def test_a_file_under_another_status_is_sent_whole(
    path: Path, etag: str, server: Server, status: int
) -> None:
    response = server.send(
        lambda ctx: ctx.stream(path.open("rb"), status=status),
        Range="bytes=0-9",
        If_None_Match=etag,
    )
    assert (response.status_code, response.data) == (status, DATA)


def test_a_status_that_is_changed_later_leaves_the_file_whole(path: Path, server: Server) -> None:
    def not_found(ctx: Context) -> Response:
        response = ctx.file(path)
        response.status_code = 404
        return response

    response = server.send(not_found, Range="bytes=0-9")
    assert (response.status_code, response.data) == (404, DATA)


# Preconditions: the order is that of 13.2.2.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "template", ["{}", "W/{}", '"other", {}', '"other" , W/{},"third"', '"a,b", {}', "*"]
)
def test_not_modified_when_a_tag_matches(
    file: Handler, etag: str, server: Server, template: str, method: str
) -> None:
    response = server.send(file, method, If_None_Match=template.format(etag))
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == etag
    assert not {"Content-Length", "Content-Type", "Content-Range"} & set(response.headers.keys())


@pytest.mark.parametrize("value", ['"other"', 'W/"other", "third"', "", ","])
def test_whole_when_no_tag_matches(file: Handler, server: Server, value: str) -> None:
    response = server.send(file, If_None_Match=value)
    assert (response.status_code, response.data) == (200, DATA)


@pytest.mark.parametrize(
    ("since", "status"),
    [
        (DATE, 304),
        (AFTER, 304),
        (BEFORE, 200),
        ("yesterday", 200),
        ("", 200),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", 304),  # 5.6.7: obsolete, but to be understood
        ("Tue Nov 14 22:13:20 2023", 304),
    ],
)
def test_not_modified_since(file: Handler, server: Server, since: str, status: int) -> None:
    assert server.send(file, If_Modified_Since=since).status_code == status


def test_a_tag_that_differs_goes_before_the_date(file: Handler, server: Server) -> None:
    response = server.send(file, If_None_Match='"other"', If_Modified_Since=AFTER)
    assert response.status_code == 200


def test_a_tag_that_matches_goes_before_the_date(file: Handler, etag: str) -> None:
    response = PLAIN.send(file, If_None_Match=etag, If_Modified_Since=BEFORE)
    assert response.status_code == 304


def test_not_modified_goes_before_the_range(file: Handler, etag: str, server: Server) -> None:
    response = server.send(file, If_None_Match=etag, Range="bytes=0-9")
    assert response.status_code == 304


@pytest.mark.parametrize(
    ("template", "status"),
    [
        ("{}", 200),
        ('"other", {}', 200),
        ("*", 200),
        ('"other"', 412),
        ("W/{}", 412),  # a weak tag never matches strongly
        ("", 412),
    ],
)
def test_if_match_wants_the_tag(
    file: Handler, etag: str, server: Server, template: str, status: int
) -> None:
    response = server.send(file, If_Match=template.format(etag))
    assert response.status_code == status
    assert response.data == (DATA if status == 200 else b"")
    assert response.headers["Content-Length"] == str(len(response.data))


@pytest.mark.parametrize(
    ("since", "status"), [(DATE, 200), (AFTER, 200), (BEFORE, 412), ("yesterday", 200)]
)
def test_if_unmodified_since_wants_the_date(
    file: Handler, server: Server, since: str, status: int
) -> None:
    assert server.send(file, If_Unmodified_Since=since).status_code == status


def test_if_match_goes_before_if_unmodified_since(file: Handler, etag: str) -> None:
    assert PLAIN.send(file, If_Match=etag, If_Unmodified_Since=BEFORE).status_code == 200
    assert PLAIN.send(file, If_Match='"other"', If_Unmodified_Since=AFTER).status_code == 412


def test_a_failed_precondition_goes_before_not_modified(file: Handler, etag: str) -> None:
    assert PLAIN.send(file, If_Match='"other"', If_None_Match=etag).status_code == 412
    assert PLAIN.send(file, If_Unmodified_Since=BEFORE, If_None_Match=etag).status_code == 412


def test_a_precondition_that_holds_lets_not_modified_be_asked(file: Handler, etag: str) -> None:
    assert PLAIN.send(file, If_Match=etag, If_None_Match=etag).status_code == 304


def test_a_star_matches_a_body_without_a_tag() -> None:
    assert PLAIN.send(in_memory, If_None_Match="*").status_code == 304
    assert PLAIN.send(in_memory, If_Match="*").status_code == 200


@pytest.mark.parametrize("header", ["If_None_Match", "If_Match", "If_Unmodified_Since"])
def test_dates_and_tags_do_not_match_a_body_without_them(header: str) -> None:
    value = BEFORE if header.endswith("Since") else '"a"'
    status = 412 if header == "If_Match" else 200
    assert PLAIN.send(in_memory, **{header: value}).status_code == status


def weakly_tagged(ctx: Context) -> Response:
    return ctx.stream(io.BytesIO(DATA), headers={"ETag": 'W/"weak"'})


@pytest.mark.parametrize("tag", ['W/"weak"', '"weak"'])
def test_a_weak_tag_of_ours_matches_weakly_alone(tag: str) -> None:
    assert PLAIN.send(weakly_tagged, If_None_Match=tag).status_code == 304
    assert PLAIN.send(weakly_tagged, If_Match=tag).status_code == 412
    assert PLAIN.send(weakly_tagged, If_Range=tag, Range="bytes=0-9").data == DATA


# If-Range: 13.1.5.


@pytest.mark.parametrize("template", ["{}", DATE])
def test_if_range_gives_the_range_of_the_same_file(
    file: Handler, etag: str, server: Server, template: str
) -> None:
    response = server.send(file, If_Range=template.format(etag), Range="bytes=1-2")
    assert (response.status_code, response.data) == (206, DATA[1:3])


@pytest.mark.parametrize("template", ["W/{}", '"other"', BEFORE, AFTER, "other", "{}, {}", "*"])
def test_if_range_gives_the_whole_of_another_file(
    file: Handler, etag: str, server: Server, template: str
) -> None:
    response = server.send(file, If_Range=template.format(etag, etag), Range="bytes=1-2")
    assert (response.status_code, response.data) == (200, DATA)


def test_if_range_gives_the_whole_rather_than_416(file: Handler, server: Server) -> None:
    assert server.send(file, If_Range='"other"', Range="bytes=9999-").data == DATA


# Ranges: 14.


@pytest.mark.parametrize("handler", ["file", "in_memory"])
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-1023", 0, 1023),
        ("bytes=10-20", 10, 20),
        ("bytes=1023-1023", 1023, 1023),
        ("bytes=1000-5000", 1000, 1023),
        ("bytes=1000-99999999999999999999", 1000, 1023),
        ("bytes=0-", 0, 1023),
        ("bytes=1000-", 1000, 1023),
        ("bytes=-1", 1023, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=-5000", 0, 1023),
        ("Bytes=10-20", 10, 20),
        ("bytes=10-20,5000-", 10, 20),
    ],
)
def test_one_range_gives_exactly_its_bytes(
    request: pytest.FixtureRequest,
    server: Server,
    handler: str,
    asked: str,
    first: int,
    last: int,
) -> None:
    source = in_memory if handler == "in_memory" else request.getfixturevalue("file")
    response = server.send(source, Range=asked)
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert response.headers["Content-Length"] == str(last - first + 1)
    assert response.data == DATA[first : last + 1]


def test_a_range_has_the_validators_of_the_whole(file: Handler, etag: str, server: Server) -> None:
    response = server.send(file, Range="bytes=0-9")
    assert (response.headers["ETag"], response.headers["Last-Modified"]) == (etag, DATE)


def test_a_range_of_a_large_file_is_more_than_one_read(large: Path, server: Server) -> None:
    response = server.send(lambda ctx: ctx.file(large), Range="bytes=5-250000")
    assert response.data == large.read_bytes()[5:250001]


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=1024-1024", "bytes=5000-6000"])
@pytest.mark.parametrize("more", ["", ",7000-"])
def test_a_range_behind_the_end_is_a_416_that_says_the_size(
    file: Handler, server: Server, asked: str, more: str
) -> None:
    response = server.send(file, Range=asked + (more if asked != "bytes=1024-" else ""))
    assert (response.status_code, response.data) == (416, b"")
    assert response.headers["Content-Range"] == "bytes */1024"
    assert response.headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    "asked",
    [
        *("", "bytes", "bytes=", "bytes=-", "0-1", "=0-1", "bytes 0-1", "bytes=0-1,x"),
        *("bytes=a-b", "bytes=0x1-2", "bytes=1", "bytes=--1", "bytes=-0", "bytes=5-4"),
        *("bytes=1-2-3", "bytes=1_0-20", "bytes=+1-2", "bytes=1.0-2", "bytes=0-1;2-3"),
        *("bytes=0--0", "bytes=\u0660-1", f"bytes=0-{'9' * 5000}"),
    ],
)
def test_a_range_that_cannot_be_read_is_ignored(file: Handler, server: Server, asked: str) -> None:
    response = server.send(file, Range=asked.encode().decode("latin-1"))
    assert (response.status_code, response.data) == (200, DATA)


@pytest.mark.parametrize("asked", ["items=0-1", "seconds=1-2", "byte=0-1", "none=0-0"])
def test_another_unit_is_ignored(file: Handler, server: Server, asked: str) -> None:
    response = server.send(file, Range=asked)
    assert (response.status_code, response.data) == (200, DATA)
    assert "Content-Range" not in response.headers


@pytest.mark.parametrize(
    "asked",
    [
        *("0-1023,0-1023", "0-9,5-14", "10-19,0-9", "0-,5-", "-5,-5", "-5,0-1"),
        *("0-600,-600", "0-99,200-299,-800"),
    ],
)
def test_ranges_that_overlap_or_go_back_are_ignored(
    file: Handler, server: Server, asked: str
) -> None:
    response = server.send(file, Range=f"bytes={asked}")
    assert (response.status_code, response.data) == (200, DATA)


def test_thousands_of_ranges_are_ignored(file: Handler, server: Server) -> None:
    asked = ",".join(f"{number}-{number}" for number in range(0, 1024, 2))
    response = server.send(file, Range=f"bytes={asked}")
    assert (response.status_code, response.data) == (200, DATA)


def test_an_empty_file_is_sent(tmp_path: Path, server: Server) -> None:
    (tmp_path / "empty").touch()
    response = server.send(lambda ctx: ctx.file(tmp_path / "empty"))
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["Content-Length"] == "0"


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-0", "bytes=1-2"])
def test_no_range_of_an_empty_file_can_be_had(tmp_path: Path, server: Server, asked: str) -> None:
    (tmp_path / "empty").touch()
    response = server.send(lambda ctx: ctx.file(tmp_path / "empty"), Range=asked)
    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */0"


# Several ranges: 14.6.


class Part(NamedTuple):
    first: int
    stop: int
    size: int
    data: bytes
    content_type: str


def parts(response: TestResponse) -> list[Part]:
    """The parts of multipart/byteranges, read by the standard library's parser of mail."""
    assert response.mimetype == "multipart/byteranges"
    assert response.headers["Content-Length"] == str(len(response.data))
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.data)
    assert not message.defects
    found = []
    for part in message.get_payload():
        assert isinstance(part, email.message.Message)
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", part["Content-Range"])
        assert place is not None
        first, last, size = map(int, place.groups())
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        found.append(Part(first, last + 1, size, data, part["Content-Type"]))
    return found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("0-0,-1", [(0, 1), (1023, 1024)]),
        ("0-9,10-19", [(0, 10), (10, 20)]),
        ("0-9, 20-29 ,1000-", [(0, 10), (20, 30), (1000, 1024)]),
        ("0-9,20-29,5000-6000", [(0, 10), (20, 30)]),
        ("13-13,26-", [(13, 14), (26, 1024)]),
    ],
)
def test_several_ranges_come_as_multipart(
    path: Path, server: Server, asked: str, expected: list[tuple[int, int]]
) -> None:
    response = server.send(lambda ctx: ctx.file(path, "image/png"), Range=f"bytes={asked}")
    assert response.status_code == 206
    assert "Content-Range" not in response.headers  # it would stand for the whole: 15.3.7.2
    got = parts(response)
    assert [(part.first, part.stop) for part in got] == expected
    assert [part.data for part in got] == [DATA[first:stop] for first, stop in expected]
    assert {part.size for part in got} == {len(DATA)}
    assert {part.content_type for part in got} == {"image/png"}


def test_several_ranges_of_what_stands_elsewhere_count_from_there(server: Server) -> None:
    body = io.BytesIO(DATA)
    body.seek(1000)
    got = parts(server.send(lambda ctx: ctx.stream(body), Range="bytes=0-1,-2"))
    assert [part.data for part in got] == [DATA[1000:1002], DATA[1022:]]


def test_several_ranges_of_a_large_file_are_more_than_one_read(large: Path, server: Server) -> None:
    asked = "bytes=0-99999,100001-299998"
    got = parts(server.send(lambda ctx: ctx.file(large), Range=asked))
    data = large.read_bytes()
    assert [part.data for part in got] == [data[:100_000], data[100_001:299_999]]


# Any range at all.


def model(header: str, size: int) -> list[tuple[int, int]] | None:
    """What `header` asks of `size` bytes, read with no care at all; None for nonsense."""
    unit, equals, ranges = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    asked = []
    try:
        for item in ranges.split(","):
            first, dash, last = item.strip().partition("-")
            if not dash:
                return None
            if first:
                asked.append((int(first), min(size, int(last) + 1 if last else size)))
            else:
                asked.append((max(0, size - int(last)), size))
    except ValueError:
        return None
    return [(first, stop) for first, stop in asked if first < stop]


numbers = st.one_of(st.integers(0, 12), st.integers(0, 10**6)).map(str)
ranges = st.one_of(
    st.tuples(numbers, numbers).map("-".join),
    numbers.map("{}-".format),
    numbers.map("-{}".format),
)
range_headers = st.one_of(
    st.lists(ranges, min_size=1, max_size=5).map(lambda items: "bytes=" + ",".join(items)),
    st.text("bytes=-,0123456789 ", max_size=20),
    st.text("-,0123456789 \t+_x", max_size=20).map("bytes={}".format),
    st.text(st.characters(max_codepoint=255), max_size=20),
)


@given(st.integers(0, 40), range_headers, st.sampled_from([PLAIN, WRAPPING]))
@example(8, "bytes=0-1,3-4,-4", PLAIN)
@example(8, "bytes=0--0", PLAIN)
def test_any_range_header_gives_the_whole_or_exactly_what_it_asks_for(
    size: int, header: str, server: Server
) -> None:
    data = DATA[:size]
    server = Server({**server.environ, "HTTP_RANGE": header})
    response = server.send(lambda ctx: ctx.stream(io.BytesIO(data)))
    asked = model(header, size)
    if response.status_code == 200:
        assert response.data == data
    elif response.status_code == 416:
        assert asked == []
        assert response.headers["Content-Range"] == f"bytes */{size}"
    elif response.mimetype == "multipart/byteranges":
        assert [(part.first, part.stop) for part in parts(response)] == asked
        assert [part.data for part in parts(response)] == [data[a:b] for a, b in asked or ()]
    else:
        assert response.status_code == 206
        assert asked is not None
        [(first, stop)] = asked
        assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{size}"
        assert response.data == data[first:stop]


# Content-Disposition: RFC 6266 and RFC 8187.


def disposition(path: Path, download: bool | str) -> str:
    response = PLAIN.send(lambda ctx: ctx.file(path, download=download))
    assert response.status_code == 200
    return response.headers["Content-Disposition"]


NAMES = ["data.bin", "two words.txt", "größe.txt", "日本語.pdf", "🦆.gif", 'quo"ted.txt']
NAMES += ["back\\slash", "semi;colon", "per%41cent.txt", "a\rb\nc.txt", "question?.txt", "a\x7fb"]
NAMES += ["it's.txt", "filename*=UTF-8''x", "tab\t.txt", "café\x85.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_back_as_it_was(path: Path, name: str) -> None:
    value = disposition(path, name)
    assert re.fullmatch(r"[\x20-\x7e]+", value)  # all that a field may carry everywhere
    kind, options = parse_options_header(value)
    assert (kind, options["filename"]) == ("attachment", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.bin", "attachment; filename=data.bin"),
        ("two words.txt", 'attachment; filename="two words.txt"'),
        (
            "€ rates.txt",
            "attachment; filename=\"_ rates.txt\"; filename*=UTF-8''%E2%82%AC%20rates.txt",
        ),
        ('a"b', "attachment; filename=a_b; filename*=UTF-8''a%22b"),
        ("per%41cent", "attachment; filename=per_41cent; filename*=UTF-8''per%2541cent"),
        ("100%", "attachment; filename=100%"),
    ],
)
def test_old_clients_get_a_plain_name_beside_the_true_one(
    path: Path, name: str, value: str
) -> None:
    assert disposition(path, name) == value


def test_a_name_that_is_not_text_can_be_saved_as_well(path: Path) -> None:
    broken = path.with_name(os.fsdecode(b"gr\xf6\xdfe.txt"))
    path.rename(broken)
    kind, options = parse_options_header(disposition(broken, True))
    assert kind == "attachment"
    assert options["filename"].endswith("e.txt")


def test_a_download_has_the_name_of_its_file(path: Path) -> None:
    assert disposition(path, True) == "attachment; filename=data.bin"


def test_a_download_has_the_name_that_was_asked_for_not_a_links_target(path: Path) -> None:
    path.with_name("latest.png").symlink_to(path)
    for root in (path.parent, None):
        found = "latest.png" if root else path.with_name("latest.png")
        response = PLAIN.send(partial(Context.file, path=found, root=root, download=True))
        assert response.headers["Content-Disposition"] == "attachment; filename=latest.png"
        assert response.mimetype == "image/png"


def test_without_a_download_there_is_no_disposition(file: Handler) -> None:
    assert "Content-Disposition" not in PLAIN.send(file).headers


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a.txt.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.txt.Z", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_content_type_is_what_the_name_suggests(
    tmp_path: Path, name: str, content_type: str
) -> None:
    (tmp_path / name).touch()
    response = PLAIN.send(lambda ctx: ctx.file(tmp_path / name))
    assert response.headers["Content-Type"] == content_type
    assert "Content-Encoding" not in response.headers
    given = PLAIN.send(lambda ctx: ctx.file(tmp_path / name, "text/x-mine"))
    assert given.mimetype == "text/x-mine"


# What ctx.file may serve.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file in it, and much around it that is to stay hidden."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "inside.txt").write_text("inside")
    (root / "folder" / "deep.txt").write_text("deep")
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "root-beside" / "secret.txt").write_text("outside")
    (root / "link-in").symlink_to(root / "inside.txt")
    (root / "link-out").symlink_to(tmp_path / "outside.txt")
    (root / "link-beside").symlink_to(tmp_path / "root-beside")
    (root / "link-up").symlink_to("..")
    (root / "folder" / "link-across").symlink_to("../inside.txt")
    (root / "folder" / "link-out-and-in").symlink_to("../../root/inside.txt")
    (root / "link-folder").symlink_to("folder/")
    (root / "link-folder-in").symlink_to(root / "folder")
    (root / "link-link").symlink_to("link-folder/link-across")
    (root / "dangling").symlink_to(root / "nothing")
    (root / "endless").symlink_to("endless")
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("inside.txt", "inside"),
        ("folder/deep.txt", "deep"),
        ("link-in", "inside"),
        ("link-folder/deep.txt", "deep"),
        ("link-folder-in/deep.txt", "deep"),
        ("link-folder-in/link-across", "inside"),
        ("link-link", "inside"),
        ("folder/../inside.txt", "inside"),
        ("./inside.txt", "inside"),
        (Path("inside.txt"), "inside"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_below_the_root_is_served(
    root: Path, path: Any, text: str, kind: Callable[[Any], Any]
) -> None:
    response = PLAIN.send(lambda ctx: ctx.file(path, root=kind(root)))
    assert response.text == text


def test_a_root_may_be_relative_or_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    root.with_name("www").symlink_to(root)
    for name in ("root", "root/", "www", "./www/../root"):
        response = PLAIN.send(partial(Context.file, path="inside.txt", root=name))
        assert response.text == "inside"


@pytest.mark.parametrize(
    "path",
    [
        *("../outside.txt", "folder/../../outside.txt", "..", "link-out", "link-up/outside.txt"),
        *("link-beside/secret.txt", "../root-beside/secret.txt", "{root}/inside.txt"),
        *("/etc/passwd", "//etc/passwd", "/dev/null", "inside.txt\0", "\0", "inside.txt/x"),
        *("folder", "folder/", "", ".", "nothing", "dangling", "endless", "fifo", "x" * 5000),
        *("\udcff", "\ud800", "folder/link-out-and-in", "inside.txt/../inside.txt/x", "a/" * 2000),
    ],
)
def test_all_else_is_not_found(root: Path, path: str) -> None:
    response = PLAIN.send(lambda ctx: ctx.file(path.format(root=root), root=root))
    assert response.status_code == 404
    assert response.mimetype == "application/problem+json"
    assert str(root) not in response.text


@pytest.mark.parametrize("name", ["folder", "nothing", "dangling", "fifo", "a\0b", "endless"])
def test_without_a_root_what_is_no_file_is_not_found_either(root: Path, name: str) -> None:
    assert PLAIN.send(lambda ctx: ctx.file(f"{root}/{name}")).status_code == 404


class Swap:
    """Does something right before the file or folder number `at` is opened."""

    def __init__(self, at: int, swap: Callable[[], object]) -> None:
        self.left: int | None = at
        self._swap = swap
        sys.addaudithook(self._hook)  # it stays, and does nothing after its one time

    def _hook(self, event: str, _: object) -> None:
        if event == "open" and self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self._swap()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("target", ["folder", "folder/deep.txt"])
def test_a_link_that_is_put_there_meanwhile_leads_nowhere(root: Path, target: str, at: int) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "deep.txt").write_text("outside")
    moved = root / target

    def swap() -> None:
        moved.rename(root / "moved")
        moved.symlink_to(outside if target == "folder" else outside / "deep.txt")

    race = Swap(at, swap)
    try:
        response = PLAIN.send(lambda ctx: ctx.file("folder/deep.txt", root=root))
        assert response.status_code == 404 or response.text == "deep"
    finally:
        race.left = None


@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.parametrize("at", range(4))
def test_a_fifo_that_is_put_there_meanwhile_holds_nobody_up(
    root: Path, at: int, rooted: bool
) -> None:
    def swap() -> None:
        (root / "inside.txt").rename(root / "moved")
        os.mkfifo(root / "inside.txt")

    race = Swap(at, swap)
    name, below = ("inside.txt", root) if rooted else (str(root / "inside.txt"), None)
    try:
        response = PLAIN.send(lambda ctx: ctx.file(name, root=below))
        assert response.status_code in (200, 404)
    finally:
        race.left = None


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for path in ("folder/deep.txt", "link-link", "nothing", "link-out", "folder/nothing", "fifo"):
        PLAIN.send(partial(Context.file, path=path, root=root)).close()
    assert len(os.listdir("/dev/fd")) == before


def test_browsers_may_not_guess_the_type_of_a_file(root: Path) -> None:
    response = PLAIN.send(lambda ctx: ctx.file("inside.txt", root=root))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    given = {"X-Content-Type-Options": "other"}
    response = PLAIN.send(lambda ctx: ctx.file("inside.txt", root=root, headers=given))
    assert response.headers.getlist("X-Content-Type-Options") == ["other"]


def test_without_a_root_a_path_leads_anywhere(root: Path) -> None:
    assert PLAIN.send(lambda ctx: ctx.file(root / "link-out")).text == "outside"


def test_a_file_that_may_not_be_read_is_forbidden(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # as root can read all files
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    response = PLAIN.send(lambda ctx: ctx.file("inside.txt", root=root))
    monkeypatch.undo()
    assert response.status_code == 403
    assert response.mimetype == "application/problem+json"


def test_a_file_that_goes_away_meanwhile_is_not_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.isfile", lambda _: True)
    assert PLAIN.send(lambda ctx: ctx.file("nothing", root=root)).status_code == 404


# How files are closed.


class Opened:
    """Files that a handler has sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[IO[bytes]] = []

    def __call__(self, ctx: Context) -> Response:
        self.files.append(self.path.open("rb"))
        return ctx.stream(self.files[-1])

    @property
    def closed(self) -> bool:
        return [file.closed for file in self.files] == [True]


ASKED = {"whole": {}, "range": {"Range": "bytes=1-250000"}, "ranges": {"Range": "bytes=0-9,20-"}}
asked = pytest.mark.parametrize("headers", ASKED.values(), ids=ASKED.keys())


@asked
def test_a_file_is_closed_when_it_was_sent(
    large: Path, server: Server, headers: dict[str, str]
) -> None:
    opened = Opened(large)
    _, _, body = server.start(opened, **headers)
    assert b"".join(body)
    body.close()
    assert opened.closed


@asked
def test_a_file_is_closed_when_it_was_left_early(
    large: Path, server: Server, headers: dict[str, str]
) -> None:
    opened = Opened(large)
    _, _, body = server.start(opened, **headers)
    assert any(iter(body))  # the first chunk that is not empty
    body.close()
    assert opened.closed


@asked
def test_a_file_is_closed_when_nothing_of_it_was_sent(
    large: Path, server: Server, headers: dict[str, str]
) -> None:
    opened = Opened(large)
    _, _, body = server.start(opened, **headers)
    body.close()
    assert opened.closed


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"If_None_Match": "*"}, 304),
        ("GET", {"If_Match": '"other"'}, 412),
        ("GET", {"Range": "bytes=900000-"}, 416),
    ],
)
@pytest.mark.parametrize("iterated", [True, False])
def test_a_file_is_closed_when_its_bytes_are_not_wanted(
    large: Path,
    server: Server,
    method: str,
    headers: dict[str, str],
    status: int,
    iterated: bool,
) -> None:
    opened = Opened(large)
    got, _, body = server.start(opened, method, **headers)
    assert got == status
    if iterated:
        assert b"".join(body) == b""
    body.close()
    assert opened.closed


def test_a_file_is_closed_when_middleware_fails_after_the_handler(large: Path) -> None:
    opened = Opened(large)

    def replace(_ctx: Context, proceed: Callable[[], Any]) -> Any:
        with closing(proceed()):
            raise RuntimeError

    response = Client(application(opened, replace)).get("/", buffered=True)
    assert response.status_code == 500
    assert opened.closed


def test_a_file_whose_headers_the_server_refuses_is_closed(large: Path) -> None:
    opened, calls = Opened(large), []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        calls.append(status)
        if len(calls) == 1:
            raise ValueError("not these headers")
        return print

    body = application(opened)(EnvironBuilder("/").get_environ(), start_response)
    assert b"".join(body)
    body.close()  # type: ignore[attr-defined]
    assert calls[1].startswith("500")
    assert opened.closed


# Files that change while they are sent.


def received(body: Iterable[bytes]) -> Iterator[bytes]:
    """What of `body` comes before the server has to break the connection off."""
    with pytest.raises(StreamAborted, match="shrank"):
        yield from body


@asked
def test_of_a_file_that_grows_no_more_is_sent_than_was_announced(
    large: Path, server: Server, headers: dict[str, str]
) -> None:
    before = server.send(lambda ctx: ctx.file(large), **headers).data
    _, fields, body = server.start(lambda ctx: ctx.file(large), **headers)
    with large.open("ab") as more:
        more.write(b"more" * 100_000)
    data = b"".join(body)
    body.close()
    assert len(data) == int(fields["Content-Length"]) == len(before)
    if fields["Content-Type"] == "application/octet-stream":
        assert data == before


@asked
def test_of_a_file_that_shrinks_the_body_breaks_off(
    large: Path, server: Server, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(large)
    _, fields, body = server.start(opened, **headers)
    chunks = iter(body)
    data = next(chunk for chunk in chunks if chunk)
    os.truncate(large, 1000)
    data += b"".join(received(chunks))
    with suppress(StreamAborted):
        body.close()
    assert len(data) < int(fields["Content-Length"])
    assert opened.closed
    assert caplog.text.count("shrank while it was sent\n") == 1


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_that_shrinks_before_it_is_sent_breaks_off(
    large: Path, server: Server, size: int
) -> None:
    opened = Opened(large)
    start = large.read_bytes()[:size]
    _, _, body = server.start(opened)
    os.truncate(large, size)
    assert b"".join(received(body)) == start
    with suppress(StreamAborted):
        body.close()
    assert opened.closed


def test_bytes_in_memory_that_shrink_break_off(server: Server) -> None:
    body = io.BytesIO(DATA * 300)
    _, _, chunks = server.start(lambda ctx: ctx.stream(body))
    assert any(iter(chunks))
    body.truncate(1000)
    with pytest.raises(StreamAborted, match="shrank"):
        list(chunks)
    chunks.close()
    assert body.closed


# Servers that send a file by its descriptor.


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [(None, 0, LARGE), ("bytes=5-", 5, LARGE), ("bytes=250000-260000", 250_000, 260_001)],
)
@pytest.mark.parametrize("read_before", [0, 10])
def test_the_descriptor_stands_where_the_answer_starts(
    large: Path, asked: str | None, first: int, stop: int, read_before: int
) -> None:
    file = large.open("rb")
    file.read(read_before)
    headers = {"Range": asked} if asked else {}
    _, fields, body = WRAPPING.start(lambda ctx: ctx.stream(file), **headers)
    assert isinstance(body, FileWrapper)
    descriptor = body.filelike.fileno()
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == body.filelike.tell() == read_before + first
    length = int(fields["Content-Length"])
    data = os.read(descriptor, length)
    assert data == large.read_bytes()[read_before + first :][:length]
    body.close()
    assert file.closed
    assert length == min(stop, LARGE - read_before) - first


def test_a_file_that_shrank_under_sendfile_breaks_off_when_it_is_closed(
    large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Opened(large)
    _, _, body = WRAPPING.start(opened)
    os.truncate(large, 1000)
    body.filelike.seek(1000)  # where a server leaves it that could send no more
    with pytest.raises(StreamAborted, match="shrank"):
        body.close()
    assert opened.closed
    assert caplog.text.count("shrank while it was sent\n") == 1
    body.close()


def test_a_client_that_left_under_sendfile_is_no_failure(large: Path) -> None:
    opened = Opened(large)
    _, _, body = WRAPPING.start(opened)
    body.filelike.seek(1000)
    body.close()
    assert opened.closed


@pytest.mark.parametrize(
    ("handler", "headers"), [(in_memory, {}), (in_memory, {"Range": "bytes=0-1"})]
)
def test_what_has_no_descriptor_is_not_offered_to_sendfile(
    handler: Handler, headers: dict[str, str]
) -> None:
    _, _, body = WRAPPING.start(handler, **headers)
    assert not isinstance(body, FileWrapper)
    body.close()
