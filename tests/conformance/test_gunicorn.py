"""`gunicorn -k gevent` as a process of its own, looked at over raw sockets.

Nothing here measures time: a stream of apps/gunicorn_app.py waits until the test lets it go on,
and what has come by then was sent before.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from wsgiref.util import FileWrapper, is_hop_by_hop
from wsgiref.validate import validator

import pytest
from apps.gunicorn_app import app
from support.servers import Body, Head, Raw, Running, connect, eventually, reset_on_close, serve
from werkzeug.test import Client, EnvironBuilder

from vento_wsgi import StreamAborted

DATA = os.urandom(1 << 20)  # more than one write, and than a socket's buffer holds


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = tmp_path_factory.mktemp("files")
    (files / "data.bin").write_bytes(DATA)
    return files


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("gunicorn")
    with serve(
        "gunicorn-gevent",
        "apps.gunicorn_app:app",
        tmp=tmp,
        env={"FILES": str(files)},
        options=["--keep-alive=20"],
    ) as running:
        yield running


@pytest.fixture
def raw(running: Running) -> Iterator[Raw]:
    with connect(running) as raw:
        yield raw


@pytest.fixture
def log(running: Running) -> Iterator[Any]:
    """What the server logs during a test."""
    before = len(running.log())
    return lambda: running.log()[before:]  # type: ignore[return-value]


# What a test does beside the connection that it looks at.


def get(running: Running, path: str, *fields: str, method: str = "GET") -> tuple[Head, Body]:
    with connect(running, 30) as raw:
        return raw.request(method, path, *fields), raw.read_all()


def let(running: Running, name: str, times: int = 1) -> None:
    """Let the stream `name` go on."""
    head, _ = get(running, f"/let/{name}?times={times}", "Content-Length: 0", method="POST")
    assert head.status == 200


def ended(running: Running, name: str) -> list[str]:
    """Wait until the stream `name` has run its finally block; what ended it."""
    _, body = get(running, f"/ended/{name}")
    how: list[str] = json.loads(body.data)
    return how


def answers(raw: Raw) -> None:
    """Assert that the connection still serves, and that nothing is left over on it."""
    assert raw.request("GET", "/hello").status == 200
    assert raw.read_all() == Body(b"hello", True)


def ask(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *fields, "", ""]).encode()


HELLO = ask("GET", "/hello")
CHUNKED = "Transfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# Streams.


def test_headers_leave_before_the_source_makes_its_first_item(
    running: Running, raw: Raw, name: str
) -> None:
    head = raw.request("GET", f"/steps/{name}")
    assert head.status == 200
    assert head.headers["Transfer-Encoding"] == "chunked"
    let(running, name)
    piece = raw.read_piece()
    assert piece is not None
    assert piece.data == f"{name}\n".encode()


def test_an_event_stream_is_opened_by_a_comment_before_its_first_event(
    running: Running, raw: Raw, name: str
) -> None:
    assert raw.request("GET", f"/events/{name}").headers["Content-Type"] == "text/event-stream"
    piece = raw.read_piece()
    assert piece is not None
    assert piece.data.startswith(b":")
    let(running, name)
    piece = raw.read_piece()
    assert piece is not None
    assert piece.data == f"data: {name}\ndata: \n\n".encode()


def test_each_item_leaves_before_the_next_is_made(running: Running, raw: Raw, name: str) -> None:
    raw.request("GET", f"/steps/{name}")
    for _ in range(3):
        let(running, name)
        piece = raw.read_piece()
        assert piece is not None
        assert piece.data == f"{name}\n".encode()


@pytest.mark.parametrize("kind", ["steps", "events"])
def test_a_client_that_leaves_ends_its_generator_at_the_next_write_at_the_latest(
    running: Running, name: str, kind: str
) -> None:
    with connect(running) as raw:
        raw.request("GET", f"/{kind}/{name}")
        let(running, name)
        assert any(name.encode() in piece.data for piece in iter(raw.read_piece, None))
        reset(raw)
    let(running, name, times=3)
    assert ended(running, name) == ["GeneratorExit"]


def test_a_client_that_leaves_before_the_headers_is_no_failure(
    running: Running, name: str, log: Any
) -> None:
    with connect(running) as raw:
        raw.send(ask("GET", f"/late/{name}"))
        _, other = get(running, "/hello")  # the request before has come by now
        assert other.complete
        reset(raw)
    let(running, name)
    assert ended(running, name) == []  # it was closed before it started
    assert "/late/" not in log()


def reset(raw: Raw) -> None:
    """Have the connection reset when it is closed, so that the server's next write tells."""
    reset_on_close(raw.sock)


# Failures.


def test_a_failure_in_mid_stream_breaks_off_and_is_logged_once(
    raw: Raw, name: str, log: Any
) -> None:
    assert raw.request("GET", f"/fail/{name}").status == 200
    assert raw.read_all() == Body(b"an item\n", complete=False)
    assert raw.read_rest() == b""
    eventually(lambda: f"RuntimeError: {name}" in log(), explain=log)
    assert log().count(f"RuntimeError: {name}") == 1
    assert log().count("Traceback") == 1
    assert log().count("GET /fail/<name> failed in mid-stream") == 1


def test_a_failing_event_stream_says_so_and_breaks_off(raw: Raw, name: str, log: Any) -> None:
    assert raw.request("GET", f"/fail/{name}?type=text/event-stream").status == 200
    body = raw.read_all()
    assert not body.complete
    item, error, rest = body.data.split(b"\n\n")
    assert item == b":\nretry: 3000\ndata: an item\ndata: "
    assert error.startswith(b"event: error\ndata: ")
    assert name.encode() not in error
    assert rest == b""
    eventually(lambda: f"RuntimeError: {name}" in log(), explain=log)
    assert log().count("Traceback") == 1


def test_a_request_that_was_pipelined_behind_a_failure_is_not_answered(raw: Raw, name: str) -> None:
    raw.send(ask("GET", f"/fail/{name}") + HELLO)
    raw.read_head()
    assert not raw.read_all().complete
    assert raw.read_rest() == b""


def test_a_failure_before_the_headers_is_an_answer_like_any_other(
    raw: Raw, name: str, log: Any
) -> None:
    head = raw.request("GET", f"/early/{name}")
    body = raw.read_all()
    assert (head.status, head.headers["Content-Type"]) == (500, "application/problem+json")
    assert body.complete
    assert name.encode() not in body.data
    assert log().count(f"RuntimeError: {name}") == log().count("Traceback") == 1
    answers(raw)


# Lengths.


@pytest.mark.parametrize("sends", [11, 100])
def test_a_body_longer_than_its_length_is_cut_there(raw: Raw, sends: int, log: Any) -> None:
    raw.send(ask("GET", f"/announced?says=10&sends={sends}") + HELLO)
    assert raw.read_head().headers["Content-Length"] == "10"
    assert raw.read_all().data == b"0123456789"
    assert raw.read_rest() == b""
    assert log().count("longer than its Content-Length") == 1


@pytest.mark.parametrize("sends", [0, 9])
def test_a_body_shorter_than_its_length_breaks_off(raw: Raw, sends: int, log: Any) -> None:
    raw.send(ask("GET", f"/announced?says=10&sends={sends}") + HELLO)
    assert raw.read_head().headers["Content-Length"] == "10"
    assert raw.read_all() == Body(b"0123456789"[:sends], complete=False)
    assert raw.read_rest() == b""
    assert log().count("short of its Content-Length") == 1


@pytest.mark.parametrize("length", [0, 10])
def test_a_body_as_long_as_its_length_leaves_the_connection_open(raw: Raw, length: int) -> None:
    raw.request("GET", f"/announced?says={length}&sends={length}")
    assert raw.read_all() == Body(b"0123456789"[:length], complete=True)
    answers(raw)


# Request bodies.


def test_a_chunked_body_is_echoed_piece_by_piece(raw: Raw) -> None:
    raw.send(ask("POST", "/echo", CHUNKED))
    assert raw.read_head().status == 200  # before any of the body was sent
    for data in (b"one", b"two" * 10_000, b"3"):
        raw.send(chunk(data))
        assert echoed(raw, len(data)) == data
    raw.send(b"0\r\n\r\n")
    assert raw.read_all() == Body(b"", complete=True)
    answers(raw)


def test_a_body_with_a_length_is_echoed_piece_by_piece(raw: Raw) -> None:
    pieces = (b"one", b"two" * 10_000, b"3")
    raw.send(ask("POST", "/echo", f"Content-Length: {sum(map(len, pieces))}"))
    assert raw.read_head().status == 200
    for data in pieces:
        raw.send(data)
        assert echoed(raw, len(data)) == data
    assert raw.read_all() == Body(b"", complete=True)
    answers(raw)


def echoed(raw: Raw, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = raw.read_piece()
        assert piece is not None, f"the echo ended after {data!r}"
        data += piece.data
    return data


def test_a_chunk_that_comes_byte_by_byte_is_echoed(raw: Raw) -> None:
    raw.send(ask("POST", "/echo", CHUNKED))
    raw.read_head()
    raw.send(b"3;extension=1\r\na")
    assert echoed(raw, 1) == b"a"
    raw.send(b"b")
    assert echoed(raw, 1) == b"b"
    raw.send(b"c\r")
    assert echoed(raw, 1) == b"c"
    raw.send(b"\n0\r\nX-Sum: 1\r\n\r\n")
    assert raw.read_all().complete
    answers(raw)


SMUGGLED = ask("GET", "/steps/smuggled")


@pytest.mark.parametrize("path", ["/unread", "/echo", "/read"])
@pytest.mark.parametrize("chunked", [True, False])
def test_the_request_behind_a_body_is_answered_whether_the_body_was_read_or_not(
    raw: Raw, path: str, chunked: bool
) -> None:
    length = f"Content-Length: {len(SMUGGLED)}"
    body = chunk(SMUGGLED) + b"0\r\n\r\n" if chunked else SMUGGLED
    raw.send(ask("POST", path, CHUNKED if chunked else length) + body + HELLO)
    assert raw.read_head().status == 200
    expected = b"unread" if path == "/unread" else SMUGGLED
    assert raw.read_all() == Body(expected, complete=True)
    assert raw.read_head().status == 200
    assert raw.read_all() == Body(b"hello", complete=True)
    answers(raw)


def test_a_large_body_that_is_left_unread_does_not_become_a_request(raw: Raw) -> None:
    body = HELLO * 20_000
    raw.send(ask("POST", "/unread", f"Content-Length: {len(body)}"))
    assert raw.read_head().status == 200
    assert raw.read_all() == Body(b"unread", complete=True)
    raw.send(body)
    answers(raw)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_past_the_limit_is_a_413_before_the_headers(raw: Raw, chunked: bool) -> None:
    body = b"1" * 1001
    framed = chunk(body) + b"0\r\n\r\n" if chunked else body
    raw.send(ask("POST", "/read", CHUNKED if chunked else "Content-Length: 1001") + framed)
    head = raw.read_head()
    assert (head.status, head.headers["Content-Type"]) == (413, "application/problem+json")
    assert json.loads(raw.read_all().data)["status"] == 413
    answers(raw)


def test_an_echo_whose_length_is_past_the_limit_is_a_413(raw: Raw) -> None:
    raw.send(ask("POST", "/echo?limit=10", "Content-Length: 11"))
    assert raw.read_head().status == 413
    assert raw.read_all().complete
    raw.send(b"1" * 11)
    answers(raw)


def test_the_limit_in_the_middle_of_an_echo_breaks_it_off(raw: Raw) -> None:
    raw.send(ask("POST", "/echo?limit=10", CHUNKED) + chunk(b"sixsix"))
    assert raw.read_head().status == 200
    assert echoed(raw, 6) == b"sixsix"
    raw.send(chunk(b"sixsix"))
    assert raw.read_all() == Body(b"", complete=False)
    assert raw.read_rest() == b""


@pytest.mark.parametrize("path", ["/read", "/read-twice"])
@pytest.mark.parametrize(
    ("field", "part"),
    [("Content-Length: 10", b"12345"), (CHUNKED, b"5\r\n12345\r\n"), (CHUNKED, b"a\r\n12345")],
)
def test_a_body_that_ends_early_is_a_400(raw: Raw, path: str, field: str, part: bytes) -> None:
    raw.send(ask("POST", path, field) + part)
    raw.sock.shutdown(socket.SHUT_WR)
    head = raw.read_head()
    assert (head.status, head.headers["Content-Type"]) == (400, "application/problem+json")
    assert raw.read_all().complete


@pytest.mark.parametrize(
    ("field", "part"), [("Content-Length: 10", b"12345"), (CHUNKED, b"5\r\n12345\r\n")]
)
def test_an_echo_breaks_off_where_the_body_does(raw: Raw, field: str, part: bytes) -> None:
    raw.send(ask("POST", "/echo", field) + part)
    raw.sock.shutdown(socket.SHUT_WR)
    raw.read_head()
    assert raw.read_all() == Body(b"12345", complete=False)


@pytest.mark.parametrize(
    "part",
    [
        b"zz\r\n12345\r\n",  # no size
        b"5\r\n12345678\r\n",  # more than the size
        b"5\r\n12345\r\n0\r\nno trailer\r\n\r\n",
        b"1" * 20_000,  # a size without an end
    ],
    ids=["size", "end", "trailer", "line"],
)
def test_malformed_chunks_are_the_clients_fault(raw: Raw, part: bytes, log: Any) -> None:
    raw.send(ask("POST", "/read", CHUNKED) + part)
    head = raw.read_head()
    raw.read_all()
    assert head.status == 400
    assert "Traceback" not in log()
    assert raw.read_rest() == b""  # where the next request starts is unknown


def test_a_client_that_waits_for_100_continue_gets_it(raw: Raw) -> None:
    raw.send(ask("POST", "/echo", CHUNKED, "Expect: 100-continue"))
    assert raw.read_head().status == 100
    assert raw.read_head().status == 200
    raw.send(chunk(b"one"))
    assert echoed(raw, 3) == b"one"


# Files.


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("", 0, len(DATA)),
        ("bytes=0-0", 0, 1),
        ("bytes=1000-900000", 1000, 900_001),
        ("bytes=5-", 5, len(DATA)),
        ("bytes=-500000", len(DATA) - 500_000, len(DATA)),
    ],
)
def test_a_file_and_a_range_of_it_leave_the_connection_open(
    raw: Raw, asked: str, first: int, stop: int
) -> None:
    for _ in range(2):
        head = raw.request("GET", "/file/data.bin", f"Range: {asked}")
        assert head.status == (206 if asked else 200)
        assert head.headers["Content-Length"] == str(stop - first)
        assert raw.read_all() == Body(DATA[first:stop], complete=True)
    answers(raw)


def test_several_ranges_and_none_leave_the_connection_open(raw: Raw) -> None:
    head = raw.request("GET", "/file/data.bin", "Range: bytes=0-99,200000-700000")
    assert head.status == 206
    body = raw.read_all()
    assert body.complete
    assert DATA[200_000:700_001] in body.data
    assert raw.request("GET", "/file/data.bin", "Range: bytes=9999999-").status == 416
    assert raw.read_all() == Body(b"", complete=True)
    answers(raw)


def test_a_file_that_was_not_modified_leaves_the_connection_open(raw: Raw) -> None:
    head = raw.request("HEAD", "/file/data.bin")
    assert head.headers["Content-Length"] == str(len(DATA))
    tag = head.headers["ETag"]
    assert raw.request("GET", "/file/data.bin", f"If-None-Match: {tag}").status == 304
    answers(raw)


LARGE = 64 << 20  # far more than the sockets' buffers hold


@contextmanager
def half_read(raw: Raw, files: Path) -> Iterator[Path]:
    """A large file of which the client has read a little and then stopped."""
    file = files / "large.bin"
    with file.open("wb") as opened:
        opened.truncate(LARGE)
    raw.send(ask("GET", "/file/large.bin") + HELLO)
    assert raw.read_head().headers["Content-Length"] == str(LARGE)
    assert raw.read_piece() is not None
    yield file
    file.unlink()


@pytest.mark.parametrize("size", [0, 1 << 20, LARGE - 1])
def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection_off(
    raw: Raw, files: Path, log: Any, size: int
) -> None:
    with half_read(raw, files) as file:
        os.truncate(file, size)
        body = raw.read_all()
        assert not body.complete
        assert body.data.strip(b"\0") == b""  # the next response is not in it
        assert raw.read_rest() == b""
        eventually(lambda: "shrank" in log(), explain=log)
        assert log().count("shrank") == 1
        assert "Traceback" not in log()


def test_of_a_file_that_grows_while_it_is_sent_the_announced_part_is_sent(
    raw: Raw, files: Path
) -> None:
    with half_read(raw, files) as file:
        with file.open("ab") as more:
            more.write(b"more" * 1000)
        body = raw.read_all()
        assert body.complete
        assert body.data.strip(b"\0") == b""
        assert raw.read_head().status == 200
        assert raw.read_all() == Body(b"hello", complete=True)


# What the server and the framework each do.


def test_head_has_no_body_and_never_touches_the_source(
    running: Running, raw: Raw, name: str
) -> None:
    head = raw.request("HEAD", f"/steps/{name}")
    assert (head.status, head.headers["Content-Type"]) == (200, "text/plain")
    answers(raw)
    let(running, name)
    with connect(running) as other:  # the leave is still there: nobody took it
        other.request("GET", f"/steps/{name}")
        assert other.read_piece() is not None


def test_no_route_is_a_404(raw: Raw) -> None:
    head = raw.request("GET", "/nowhere")
    assert (head.status, head.headers["Content-Type"]) == (404, "application/problem+json")
    assert json.loads(raw.read_all().data)["title"] == "Not Found"
    answers(raw)


def test_another_method_is_a_405_that_lists_them(raw: Raw) -> None:
    head = raw.request("POST", "/hello", "Content-Length: 0")
    assert (head.status, head.headers["Content-Type"]) == (405, "application/problem+json")
    assert head.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert raw.read_all().complete
    answers(raw)


def test_fields_of_the_connection_are_the_servers_own(raw: Raw) -> None:
    head = raw.request("GET", "/kept")
    fields = head.headers
    assert fields.getlist("Connection") == ["keep-alive"]
    assert fields.getlist("Transfer-Encoding") == ["chunked"]
    assert "Keep-Alive" not in fields
    assert fields["Cache-Control"] == "no-cache"
    assert raw.read_all() == Body(b":\nretry: 3000\ndata: a\n\ndata: b\n\n", complete=True)
    answers(raw)


def test_a_client_that_wants_the_connection_closed_gets_that(raw: Raw) -> None:
    assert raw.request("GET", "/kept", "Connection: close").headers["Connection"] == "close"
    assert raw.read_all().complete
    assert raw.read_rest() == b""


def test_an_old_client_gets_a_stream_that_the_connections_end_ends(raw: Raw) -> None:
    raw.send(b"GET /kept HTTP/1.0\r\n\r\n")
    head = raw.read_head()
    assert "Transfer-Encoding" not in head.headers
    assert raw.read_all().data.endswith(b"data: b\n\n")


# The end of the server.


SETTINGS = ["-c", "python:vento_wsgi.server.config"]


@pytest.mark.parametrize(
    ("options", "who"),
    [(["--graceful-timeout=1"], "worker"), ([*SETTINGS, "--graceful-timeout=3"], "master")],
)
def test_a_server_that_stops_ends_the_streams_that_wait(
    tmp_path: Path, files: Path, options: list[str], who: str
) -> None:
    # gunicorn's master kills its workers when the time is up at which they start to end their
    # streams, so that without our settings only a worker that is told itself comes to it
    note = tmp_path / "note"
    with (
        serve(
            "gunicorn-gevent",
            "apps.gunicorn_app:app",
            tmp=tmp_path,
            env={"FILES": str(files), "NOTE": str(note)},
            options=options,
        ) as running,
        connect(running) as raw,
    ):
        worker = int(get(running, "/process")[1].data)
        raw.request("GET", "/steps/waits")
        os.kill(worker if who == "worker" else running.pid, signal.SIGTERM)
        assert not raw.read_all().complete
        eventually(note.exists, explain=running.log)
        eventually(lambda: note.read_text() in ("GreenletExit", "GeneratorExit"))
        assert "Traceback" not in running.log()


# PEP 3333.


Fields = dict[str, str]
REQUESTS: list[tuple[str, Fields, bytes, int]] = [
    ("GET /steps/pep3333?items=2", {}, b"", 200),
    ("HEAD /steps/pep3333", {}, b"", 200),
    ("GET /events/pep3333?items=2", {}, b"", 200),
    ("GET /hello", {}, b"", 200),
    ("HEAD /hello", {}, b"", 200),
    ("OPTIONS /hello", {}, b"", 204),
    ("POST /hello", {}, b"", 405),
    ("GET /nowhere", {}, b"", 404),
    ("POST /unread", {}, b"body", 200),
    ("POST /echo", {}, b"body" * 9999, 200),
    ("POST /echo?limit=3", {}, b"body", 413),
    ("POST /read", {}, b"body", 200),
    ("POST /read?limit=3", {}, b"body", 413),
    ("GET /early/pep3333", {}, b"", 500),
    ("GET /fail/pep3333", {}, b"", 200),
    ("GET /fail/pep3333?type=text/event-stream", {}, b"", 200),
    ("GET /announced?says=3&sends=3", {}, b"", 200),
    ("GET /announced?says=3&sends=4", {}, b"", 200),
    ("GET /announced?says=4&sends=3", {}, b"", 200),
    ("GET /kept", {}, b"", 200),
    ("GET /file/data.bin", {}, b"", 200),
    ("HEAD /file/data.bin", {}, b"", 200),
    ("GET /file/data.bin", {"If-None-Match": "*"}, b"", 304),
    ("GET /file/data.bin", {"If-Match": '"other"'}, b"", 412),
    ("GET /file/data.bin", {"Range": "bytes=1-2"}, b"", 206),
    ("GET /file/data.bin", {"Range": "bytes=1-2,4-5"}, b"", 206),
    ("GET /file/data.bin", {"Range": "bytes=9999999-"}, b"", 416),
    ("GET /file/../data.bin", {}, b"", 404),
]


@pytest.mark.parametrize(
    "wrapper", [{}, {"wsgi.file_wrapper": FileWrapper}], ids=["plain", "file_wrapper"]
)
@pytest.mark.parametrize(("line", "fields", "body", "status"), REQUESTS)
def test_the_validator_of_the_standard_library_finds_nothing(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    fields: Fields,
    body: bytes,
    status: int,
    wrapper: dict[str, object],
) -> None:
    monkeypatch.setenv("FILES", str(files))
    Client(app).post("/let/pep3333?times=2").close()
    sent = 0
    method, path = line.split()
    environ = EnvironBuilder(path, method=method, headers=[*fields.items()], data=body)
    start_response = Mock()
    chunks = validator(app)({**environ.get_environ(), **wrapper}, start_response)
    with closing(chunks), suppress(StreamAborted):  # type: ignore[type-var]
        for data in chunks:
            sent += len(data)
    started, headers = start_response.call_args.args
    assert started.startswith(f"{status} ")
    assert not [name for name, _ in headers if is_hop_by_hop(name)]
    assert sent <= (0 if method == "HEAD" else int(dict(headers).get("Content-Length", sent)))
