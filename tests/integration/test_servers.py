"""One application on every WSGI server, looked at over a raw socket.

LIMITS lists what a server cannot do, and the test asserts that limit. When a newer server can do
it, the test fails, and the line can be removed here and in the README.

Nothing here measures time. A generator waits at a gate (apps/matrix.py), so that when a chunk
has come the next one does not exist yet.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.gates import Gate, readable
from support.servers import SERVERS, Body, Raw, Running, connect, eventually, serve, take, target

LIMITS: dict[str, set[str]] = {
    # The server runs the application in its only thread: a stream keeps all others waiting.
    "one stream at a time": {"gunicorn-sync", "wsgiref"},
    # Headers wait for the first bytes of the body.
    "head waits for the first chunk": {"mod_wsgi"},
    # What ends a body without a Content-Length is the same after an error: the final chunk
    # (mod_wsgi, granian), or the connection's orderly close (uwsgi, wsgiref speak no chunks).
    "a failure looks like the end": {"uwsgi", "mod_wsgi", "granian", "wsgiref"},
    # The server logs what makes it break off, after the framework has logged the cause.
    "a failure is logged twice": {"waitress", "uwsgi", "mod_wsgi", "granian"},
    # The final chunk of a chunked body follows a head without a body; the connection closes.
    "HEAD ends with a final chunk": {"waitress"},
}
assert set().union(*LIMITS.values()) <= set(SERVERS)


def limited(running: Running, limit: str) -> bool:
    return running.server in LIMITS[limit]


@pytest.fixture(scope="module")
def data() -> bytes:
    """More than any buffer on the way holds, and no two blocks of it alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(256 * 1024))


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("servers")
    file = tmp / "file.bin"
    file.write_bytes(data)
    env = {"MATRIX_FILE": str(file)}
    with serve(request.param, "apps.matrix:app", tmp=tmp, env=env) as running:
        yield running


@pytest.fixture
def raw(running: Running) -> Iterator[Raw]:
    with connect(running) as raw:
        yield raw


def first_chunk(raw: Raw, gate: Gate, target: str, *fields: str) -> None:
    """Send a request, and go on to where the generator wants to make its second chunk."""
    raw.ask("GET", target, *fields)
    assert gate.wanted()
    gate.next()
    assert raw.read_head().status == 200
    take(raw, b"chunk 1\n")
    assert gate.wanted()


def assert_framed(raw: Raw) -> None:
    """After a response comes the next one, or the end of the connection."""
    with suppress(ConnectionError):
        raw.ask("GET", "/hello", "Connection: close")
    rest = raw.read_rest()
    assert rest[:7] in (b"", b"HTTP/1.")


def digest(data: bytes) -> tuple[int, str]:
    """What a failed test can print of a body that is too long to read."""
    return len(data), hashlib.sha256(data).hexdigest()


def test_chunks_come_one_by_one(raw: Raw, gate: Gate) -> None:
    first_chunk(raw, gate, target("/chunks", gate=gate.port))
    for number in (2, 3):
        gate.next()
        take(raw, b"chunk %d\n" % number)
        assert gate.wanted()
    gate.end()
    assert raw.read_all() == Body(b"", complete=True)
    assert not gate.wanted()


def test_the_head_comes_before_the_first_chunk_exists(
    running: Running, raw: Raw, gate: Gate
) -> None:
    raw.ask("GET", target("/chunks", gate=gate.port))
    assert gate.wanted()
    if limited(running, "head waits for the first chunk"):
        assert not readable(raw.sock)
        gate.next()
    assert raw.read_head().status == 200


def test_an_event_stream_opens_before_the_first_event_exists(raw: Raw, gate: Gate) -> None:
    raw.ask("GET", target("/events", gate=gate.port))
    assert gate.wanted()
    head = raw.read_head()
    assert head.headers["Content-Type"].startswith("text/event-stream")
    assert head.headers["Cache-Control"] == "no-cache"
    opening = raw.read_piece()
    assert opening is not None
    assert opening.data.startswith(b":")
    gate.next()
    take(raw, b"id: 1\ndata: 1\n\n")


def test_streams_run_side_by_side(running: Running, raw: Raw, gate: Gate) -> None:
    raw.ask("GET", target("/chunks", gate=gate.port))
    with connect(running) as other:
        assert gate.wanted()
        other.ask("GET", "/hello")
        if limited(running, "one stream at a time"):
            gate.next()
            assert gate.wanted()
            assert not readable(other.sock)
            raw.close()
            gate.end()
        assert other.read_head().status == 200
        assert other.read_all() == Body(b"hello", complete=True)


def test_head_gives_the_head_alone_and_never_starts_the_generator(
    running: Running, raw: Raw, gate: Gate
) -> None:
    head = raw.request("HEAD", target("/chunks", gate=gate.port))
    assert head.status == 200
    assert head.headers["Content-Type"].startswith("text/plain")
    if limited(running, "HEAD ends with a final chunk"):
        assert head.headers["Connection"] == "close"
        assert raw.read_rest() == b"0\r\n\r\n"
    else:
        assert_framed(raw)
    assert not gate.reached()


def test_an_unknown_path_is_a_problem_in_json(raw: Raw) -> None:
    head = raw.request("GET", "/nowhere")
    body = raw.read_all()
    assert head.status == 404
    assert head.headers["Content-Type"] == "application/problem+json"
    assert body.complete
    assert json.loads(body.data)["status"] == 404


def test_a_failure_breaks_the_connection_off(running: Running, raw: Raw, gate: Gate) -> None:
    first_chunk(raw, gate, target("/chunks", gate=gate.port))
    gate.fail()
    body = raw.read_all()
    assert body == Body(b"", complete=limited(running, "a failure looks like the end"))


def test_a_failure_is_logged_with_its_cause_and_route(
    running: Running, raw: Raw, gate: Gate
) -> None:
    before = len(running.log())
    first_chunk(raw, gate, target("/chunks", gate=gate.port))
    gate.fail()
    raw.read_all()

    def log() -> str:
        return running.log()[before:]

    cause = f"RuntimeError: told to fail at gate {gate.port}"
    eventually(lambda: cause in log())
    assert "GET /chunks failed" in log()
    assert log().count(cause) == 1
    if limited(running, "a failure is logged twice"):
        eventually(lambda: "StreamAborted:" in log())
    else:
        assert log().count("Traceback") == 1


def test_a_failure_is_told_to_an_event_source(running: Running, raw: Raw, gate: Gate) -> None:
    raw.ask("GET", target("/events", gate=gate.port))
    assert gate.wanted()
    raw.read_head()
    gate.fail()
    body = raw.read_all()
    assert b"event: error\n" in body.data
    assert body.data.endswith(b"\n\n")
    assert body.complete is limited(running, "a failure looks like the end")


def test_a_failure_shows_everywhere_in_a_body_of_known_length(raw: Raw, gate: Gate) -> None:
    first_chunk(raw, gate, target("/chunks", gate=gate.port, length=16), "Connection: close")
    gate.fail()
    assert raw.read_all() == Body(b"", complete=False)


def test_a_body_that_is_too_short_is_no_whole_body(raw: Raw, gate: Gate) -> None:
    first_chunk(raw, gate, target("/chunks", gate=gate.port, length=16), "Connection: close")
    gate.end()
    assert raw.read_all() == Body(b"", complete=False)


def test_a_body_that_is_too_long_does_not_become_the_next_response(raw: Raw, gate: Gate) -> None:
    raw.ask("GET", target("/chunks", gate=gate.port, length=4))
    assert gate.wanted()
    gate.next()
    raw.read_head()
    assert raw.read_all() == Body(b"chun", complete=True)
    assert_framed(raw)


def test_a_file_comes_whole(raw: Raw, data: bytes) -> None:
    head = raw.request("GET", "/file")
    assert head.status == 200
    assert int(head.headers["Content-Length"]) == len(data)
    body = raw.read_all()
    assert digest(body.data) == digest(data)
    assert body.complete


@pytest.mark.parametrize("start", [0, 70_001])
def test_a_range_of_a_file_is_what_comes(raw: Raw, data: bytes, start: int) -> None:
    stop = start + 300_000
    head = raw.request("GET", "/file", f"Range: bytes={start}-{stop - 1}")
    assert head.status == 206
    assert head.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(data)}"
    assert int(head.headers["Content-Length"]) == stop - start
    body = raw.read_all()
    assert digest(body.data) == digest(data[start:stop])
    assert body.complete
    assert_framed(raw)


def test_a_client_that_leaves_ends_the_generator(raw: Raw, gate: Gate) -> None:
    first_chunk(raw, gate, target("/chunks", gate=gate.port))
    gate.next()
    raw.close()
    eventually(lambda: not _goes_on(gate))


def _goes_on(gate: Gate) -> bool:
    if going_on := gate.wanted():
        with suppress(ConnectionError):  # it may end while it waits
            gate.next()
    return going_on
