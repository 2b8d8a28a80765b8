"""The engine on real servers: when chunks leave, how streams end, and what is left of them.

Nothing here measures time. A source waits at a gate that the test holds, or for good; what a
stream noted, apps/engine.py tells over HTTP.
"""

import json
import re
import signal
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from support import servers
from support.servers import COMMENT, OPENING, Body, Raw, Running, connect, eventually, serve
from test_servers import Gate
from werkzeug.test import create_environ

from vento_wsgi import Context
from vento_wsgi.streaming.greenlet_pump import MAX_SOURCES
from vento_wsgi.streaming.pumps import MAX_BUFFER

HERE = Path(__file__).resolve().parents[1]
STREAM_WORKER = "gunicorn-StreamWorker"
GEVENT = (STREAM_WORKER, "gunicorn-gevent", "gunicorn-gevent_pywsgi")
THREADS = ("gunicorn-gthread", "waitress")
TEXT, EVENTS = "text/plain", "text/event-stream"
FIRST = b"data: first\n\n"
MB = 1024 * 1024

numbers = count()
on_stream_worker = pytest.mark.parametrize("server", [STREAM_WORKER], indirect=True)
of_each_kind = pytest.mark.parametrize("kind", [TEXT, EVENTS])


@dataclass(frozen=True)
class Server:
    """A running server, and how to connect to it."""

    running: Running
    connect: Callable[[], Raw]

    @property
    def name(self) -> str:
        return self.running.server

    def get(self, path: str) -> bytes:
        with self.connect() as raw:
            raw.request("GET", path, "Connection: close")
            body = raw.read_all()
            assert body.complete
            return body.data

    def notes(self, name: str) -> Any:
        return json.loads(self.get(f"/notes/{name}"))

    def census(self) -> Counter[str]:
        return Counter(json.loads(self.get("/census")))

    def ending(self, name: str) -> Any:
        """Wait until the stream has ended; what its on_end was given, the only time."""
        eventually(lambda: self.notes(name)["endings"] != [], explain=self.running.log)
        (ending,) = self.notes(name)["endings"]
        return ending


class Chunked:
    """A response's chunks as its framing cuts them, which an HTTP library would not show."""

    def __init__(self, raw: Raw) -> None:
        self._file = raw.sock.makefile("rb")

    def head(self) -> bytes:
        lines = b"".join(iter(self._file.readline, b"\r\n"))
        assert b"chunked" in lines, lines
        return lines

    def next(self) -> bytes | None:
        """A chunk; None at the final one. RFC 9112, section 7.1, leading zeros included."""
        size = self._file.readline()
        assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", size), f"no chunk-size: {size!r}"
        data = self._file.read(int(size, 16))
        assert self._file.readline() == b"\r\n"
        return data or None

    def rest(self) -> bytes:
        return b"".join(iter(self.next, None))

    def __enter__(self) -> "Chunked":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


@pytest.fixture(scope="module", params=GEVENT)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("engine")) as server:
        yield server


@pytest.fixture(scope="module", params=THREADS)
def threaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("engine")) as server:
        yield server


@contextmanager
def started(name: str, tmp: Path) -> Iterator[Server]:
    options = ["--access-logfile=/dev/null"] if name == STREAM_WORKER else []  # for its own lines
    with serve(name, "apps.engine:app", cwd=HERE, tmp=tmp, options=options) as running:
        yield Server(running, lambda: connect(running))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-keyout", str(key), "-out", str(certificate)),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


@pytest.fixture(scope="module", params=GEVENT)
def secured(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[Path, Path],
) -> Iterator[Server]:
    key, issued = certificate
    context = ssl.create_default_context(cafile=str(issued))

    def connect_securely(running: Running, timeout: float = 10) -> Raw:
        raw = connect(running, timeout)
        raw.sock = context.wrap_socket(raw.sock, server_hostname=running.host)
        return raw

    options = [f"--keyfile={key}", f"--certfile={issued}"]
    tmp = tmp_path_factory.mktemp("engine")
    serving = serve(request.param, "apps.engine:app", cwd=HERE, tmp=tmp, options=options)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(servers, "connect", connect_securely)  # while it waits for an answer
            running = stack.enter_context(serving)
        yield Server(running, lambda: connect_securely(running))


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def name() -> str:
    """The name of a stream that no other test has."""
    return f"stream{next(numbers)}"


def target(path: str, **query: object) -> str:
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


@contextmanager
def asked(server: Server, path: str) -> Iterator[tuple[Raw, Chunked]]:
    """A connection on which `path` was asked for."""
    with server.connect() as raw, Chunked(raw) as response:
        raw.ask("GET", path)
        yield raw, response


@contextmanager
def slow(server: Server, path: str) -> Iterator[Raw]:
    """A connection on which `path` was asked for, and of which the kernel holds little."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.settimeout(30)
        sock.connect((server.running.host, server.running.port))
        raw = Raw(sock, server.running)
        raw.ask("GET", path)
        yield raw


def first_of(raw: Raw, path: str) -> None:
    """Ask for a stream and read its first chunk."""
    raw.request("GET", path)
    got = b""
    while FIRST not in got:
        piece = raw.read_piece()
        assert piece is not None, got
        got += piece.data


def is_reset(raw: Raw) -> bool:
    """Read until the connection ends; whether it ends with a reset."""
    try:
        while raw.sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


# When chunks leave.


def test_chunks_that_are_ready_together_leave_as_one(server: Server) -> None:
    with asked(server, "/ready?count=200") as (_, response):
        response.head()
        assert response.next() == b"".join(b"chunk %d\n" % n for n in range(200))
        assert response.next() is None


@on_stream_worker
def test_a_whole_response_is_one_packet_on_stream_worker(server: Server) -> None:
    with server.connect() as raw:
        raw.ask("GET", "/ready?count=200")
        packet = raw.sock.recv(1 << 16)
    assert packet.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n762\r\nchunk 0\n" in packet
    assert packet.endswith(b"chunk 199\n\r\n0\r\n\r\n")


@of_each_kind
def test_the_first_chunk_after_a_pause_leaves_alone_and_the_others_before_the_next(
    server: Server, gate: Gate, kind: str
) -> None:
    with asked(server, target("/paced", gate=gate.port, count=3, type=kind)) as (_, response):
        assert gate.wanted()
        response.head()
        if kind == EVENTS:
            assert response.next() == OPENING
        for step in (1, 2):
            gate.next()
            assert response.next() == b"data: %d.0\n\n" % step
            assert response.next() == b"data: %d.1\n\ndata: %d.2\n\n" % (step, step)
            assert gate.wanted()
        gate.end()
        assert response.next() is None


def test_the_first_chunk_after_a_pause_is_gone_before_the_source_goes_on(
    server: Server, gate: Gate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        halt = listener.getsockname()[1]
        with asked(server, target("/halting", gate=gate.port, halt=halt)) as (_, response):
            assert gate.wanted()
            gate.next()
            halted, _ = listener.accept()
            with halted:  # and with it the whole server
                response.head()
                assert response.next() == b"chunk 1\n"
                halted.sendall(b".")
                assert gate.wanted()
                gate.next()
                assert response.next() == b"chunk 2\n"
            assert gate.wanted()
            gate.end()
            assert response.next() is None


def test_each_chunk_leaves_by_itself_where_that_is_wanted(server: Server) -> None:
    with asked(server, "/ready?count=5&flush=each") as (_, response):
        response.head()
        chunks = list(iter(response.next, None))
    assert chunks == [b"chunk %d\n" % n for n in range(5)]


def test_a_source_that_never_waits_is_cut_by_size_and_starves_nobody(
    server: Server, name: str
) -> None:
    size = 1000
    with (
        asked(server, target("/endless", name=name, size=size)) as (_, response),
        ThreadPoolExecutor(1) as pool,
    ):
        response.head()
        pieces = pool.submit(lambda: [len(piece) for piece in iter(response.next, None)])
        for _ in range(5):
            assert server.get("/hello") == b"hello"
        server.get(f"/stop/{name}")
        sizes = pieces.result(30)
    notes = server.notes(name)
    assert notes["left"] == ["the end"]
    assert sum(sizes) == notes["made"]
    assert notes["made"] < 1024 * MB, "it has kept all others waiting until it gave up"
    cut = -(-MAX_BUFFER // size) * size
    assert max(sizes) == cut  # the others were cut by time


def test_a_client_that_stops_reading_holds_the_source_up(server: Server, name: str) -> None:
    size = 1024
    before = server.notes(name)["resident"]
    with slow(server, target("/endless", name=name, size=size)) as raw, Chunked(raw) as response:
        response.head()
        eventually(lambda: len({server.notes(name)["made"] for _ in range(10)}) == 1)
        notes = server.notes(name)
        held = notes["made"]
        assert MAX_BUFFER <= held < 16 * MB
        assert notes["resident"] - before < 16 * MB

        number = 0
        while number * size < held + 64 * MB:
            piece = response.next()
            assert piece is not None
            after = number + len(piece) // size
            blocks = (n.to_bytes(8, "big") * (size // 8) for n in range(number, after))
            assert piece == b"".join(blocks), f"wrong from block {number} on"
            number = after
        notes = server.notes(name)
        assert notes["made"] > held
        assert notes["resident"] - before < 16 * MB

        server.get(f"/stop/{name}")
        total = number * size + len(response.rest())
    assert server.ending(name) | {"duration": 0, "first": 0} == {
        "reason": "exhausted",
        "bytes": total,
        "chunks": server.notes(name)["endings"][0]["chunks"],
        "duration": 0,
        "first": 0,
        "backlog": 0,
    }
    assert server.notes(name)["made"] == total


# Clients that leave.

WAITS = {
    "sleep": "time.sleep(FOREVER)",
    "recv": "ours.recv(1)",
    "queue": "yield items.get()",
    "lock": "lock.acquire()",
    "event": "event.wait()",
}
"""How a source of apps/engine.py waits, and at which line."""


def leave(server: Server, how: str, kind: str, name: str, *, reset: bool = False) -> None:
    with server.connect() as raw:
        first_of(raw, target(f"/waits/{how}", name=name, type=kind, heartbeat=0))
        if reset:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.ending(name)["reason"] == "disconnected"
    assert server.notes(name)["left"] == [f"GeneratorExit: {WAITS[how]}"]


@of_each_kind
@pytest.mark.parametrize("how", WAITS)
def test_a_source_is_interrupted_where_it_waits_when_its_client_leaves(
    server: Server, how: str, kind: str, name: str
) -> None:
    leave(server, how, kind, name)


@of_each_kind
@pytest.mark.parametrize("how", WAITS)
def test_a_client_that_leaves_over_tls_is_noticed_as_well(
    secured: Server, how: str, kind: str, name: str
) -> None:
    leave(secured, how, kind, name)


@of_each_kind
def test_a_connection_that_is_reset_is_noticed(server: Server, kind: str, name: str) -> None:
    leave(server, "sleep", kind, name, reset=True)


def test_a_source_that_does_not_wait_leaves_its_context_when_its_client_leaves(
    server: Server, name: str
) -> None:
    with slow(server, target("/context", name=name)) as raw:
        raw.read_head()
        assert raw.read_piece() is not None
    assert server.ending(name)["reason"] == "disconnected"
    assert server.notes(name)["left"] == ["the handler"]


@of_each_kind
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_client_that_has_no_more_to_say_gets_its_whole_stream(
    server: Server, gate: Gate, kind: str, name: str, steps: int
) -> None:
    path = target("/paced", gate=gate.port, type=kind, name=name)
    with asked(server, path) as (raw, response):
        assert gate.wanted()
        response.head()
        if kind == EVENTS:
            assert response.next() == OPENING
        raw.sock.shutdown(socket.SHUT_WR)
        asks = raw.sock.recv(1, socket.MSG_PEEK)  # the server asks whether the client is there
        assert asks == (b"0" if kind == TEXT else b"2")
        for _ in range(steps):
            gate.next()
            assert gate.wanted()
        gate.end()
        body = response.rest()
    assert body.replace(COMMENT, b"") == b"".join(b"data: %d.0\n\n" % (n + 1) for n in range(steps))
    assert server.ending(name)["reason"] == "exhausted"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_without_chunks_has_nothing_added_to_it(
    server: Server, gate: Gate, name: str, version: str
) -> None:
    length = {"length": 22} if version == "1.1" else {}
    path = target("/paced", gate=gate.port, name=name, **length)
    with server.connect() as raw:
        raw.send(f"GET {path} HTTP/{version}\r\nHost: test\r\n\r\n".encode())
        raw.sock.shutdown(socket.SHUT_WR)
        assert gate.wanted()
        assert "Transfer-Encoding" not in raw.read_head().headers
        eventually(lambda: server.census()["clock's suspects"] == 1)
        for _ in range(2):
            gate.next()
            assert gate.wanted()
        gate.end()
        assert raw.read_all() == Body(b"data: 1.0\n\ndata: 2.0\n\n", complete=True)


@pytest.mark.parametrize("later", [False, True], ids=["together", "later"])
def test_a_request_behind_a_stream_is_answered_after_it(
    server: Server, gate: Gate, name: str, later: bool
) -> None:
    with server.connect() as raw:
        begin(server, raw, gate, name, later)
        gate.next()
        assert gate.wanted()
        gate.end()
        assert raw.read_all() == Body(b"data: 2.0\n\n", complete=True)
        assert raw.read_head().status == 200
        assert raw.read_all() == Body(b"hello", complete=True)
    assert server.ending(name)["reason"] == "exhausted"


@pytest.mark.parametrize("later", [False, True], ids=["together", "later"])
def test_a_client_that_leaves_behind_another_request_is_noticed(
    server: Server, gate: Gate, name: str, later: bool
) -> None:
    with server.connect() as raw:
        begin(server, raw, gate, name, later)
    assert not gate.wanted()
    assert server.ending(name)["reason"] == "disconnected"


def begin(server: Server, raw: Raw, gate: Gate, name: str, later: bool) -> None:
    """Read the first chunk of a stream, with another request behind the one for it."""
    raw.ask("GET", target("/paced", gate=gate.port, name=name))
    if not later:
        raw.ask("GET", "/hello")
    assert gate.wanted()
    gate.next()
    raw.read_head()
    piece = raw.read_piece()
    assert piece is not None
    assert piece.data == b"data: 1.0\n\n"
    assert gate.wanted()
    if later:
        raw.ask("GET", "/hello")
        eventually(lambda: server.census()["clock's suspects"] == 1)


def test_clients_that_come_and_vanish_leave_nothing(server: Server) -> None:
    number = 10_000 if server.name == STREAM_WORKER else 2_000
    before = server.census()
    for crowd in range(0, number, 400):
        come_and_vanish(server, min(400, number - crowd), reset=crowd % 800 == 0)

    def left() -> Counter[str]:
        now = server.census()
        now["greenlet"] -= MAX_SOURCES  # kept for other streams, and with each
        now["a watcher: callback"] -= MAX_SOURCES  # what is left of its last writer
        return now - before

    eventually(lambda: not left(), explain=lambda: str(left()))
    assert server.notes("crowd")["left"] == ["GeneratorExit: event.wait()"] * number


def come_and_vanish(server: Server, number: int, *, reset: bool) -> None:
    request = b"GET /waits/event?name=crowd&type=%s HTTP/1.1\r\nHost: test\r\n\r\n"
    with ExitStack() as stack:
        socks = []
        for n in range(number):
            sock = socket.create_connection((server.running.host, server.running.port), 10)
            socks.append(stack.enter_context(sock))
            sock.sendall(request % (TEXT, EVENTS)[n % 2].encode())
        for sock in socks:
            got = b""
            while FIRST not in got:
                data = sock.recv(1 << 16)
                assert data, got
                got += data
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@of_each_kind
def test_streams_that_end_by_themselves_leave_nothing(server: Server, kind: str) -> None:
    with server.connect() as raw:

        def ask(times: int) -> Counter[str]:
            for _ in range(times):
                raw.request("GET", target("/brief", type=kind))
                assert raw.read_all().data.endswith(FIRST + FIRST)
            return server.census()

        before = ask(1)
        left = ask(50) - before  # the connection is open, so nothing goes with it
        eventually(lambda: not left or not server.census() - before, explain=lambda: str(left))


def test_a_client_that_leaves_before_the_headers_leaves_nothing(
    server: Server, gate: Gate, name: str
) -> None:
    server.get("/census")
    before = server.census()
    with server.connect() as raw:
        raw.ask("GET", target("/late", gate=gate.port, name=name))
        assert gate.wanted()
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gate.end()
    assert server.ending(name)["reason"] == "disconnected"
    eventually(lambda: server.census()["Stream"] == before["Stream"])
    assert server.census()["clock's members"] == before["clock's members"]


# Heartbeats.


@pytest.mark.parametrize(
    ("kind", "query", "beat"),
    [(EVENTS, {"heartbeat": 0.3}, COMMENT), (TEXT, {"heartbeat": 0.3, "beat": "%0A"}, b"\n")],
    ids=["comments", "newlines"],
)
def test_a_silent_stream_has_a_heartbeat(
    server: Server, gate: Gate, kind: str, query: dict[str, object], beat: bytes
) -> None:
    assert_heartbeat(server, gate, kind, query, beat)


def assert_heartbeat(
    server: Server, gate: Gate, kind: str, query: dict[str, object], beat: bytes
) -> None:
    with asked(server, target("/paced", gate=gate.port, type=kind, **query)) as (_, response):
        assert gate.wanted()
        response.head()
        if kind == EVENTS:
            assert response.next() == OPENING
        assert response.next() == beat
        gate.next()
        assert response.next() == b"data: 1.0\n\n"
        assert response.next() == beat
        gate.end()
        assert response.rest().replace(beat, b"") == b""


def test_nothing_is_said_within_a_half_written_block(server: Server, gate: Gate) -> None:
    policy: dict[str, object] = {"type": EVENTS, "heartbeat": 0.3}
    with (
        Gate() as other_gate,
        asked(server, target("/halves", gate=gate.port, **policy)) as (_, response),
        asked(server, target("/paced", gate=other_gate.port, **policy)) as (_, other),
    ):
        other.head()
        assert other.next() == OPENING
        assert gate.wanted()
        gate.next()
        response.head()
        assert (response.next() or b"").endswith(OPENING)
        assert response.next() == b"data: one"
        for _ in range(3):
            assert other.next() == COMMENT  # a heartbeat's time has passed
        assert gate.wanted()
        gate.next()
        assert response.next() == b"\n\n"
        assert response.next() == COMMENT
        assert gate.wanted()
        gate.end()
        other_gate.wanted()
        other_gate.end()


def test_a_heartbeat_needs_to_know_what_to_send() -> None:
    ctx = Context(create_environ())
    with pytest.raises(ValueError, match="only an event stream knows what its heartbeat sends"):
        ctx.stream(iter(()), TEXT, heartbeat=5)


# Deadlines, clients that stop reading, and what is told of an end.


@pytest.mark.parametrize("accept", [EVENTS, "*/*"])
def test_a_deadline_ends_an_event_stream_cleanly_for_event_source_alone(
    server: Server, gate: Gate, name: str, accept: str
) -> None:
    path = target("/paced", gate=gate.port, type=EVENTS, name=name, deadline=0.3)
    with server.connect() as raw:
        raw.request("GET", path, f"Accept: {accept}")
        assert gate.wanted()
        assert raw.read_all() == Body(OPENING, complete=accept == EVENTS)
    assert not gate.wanted()
    assert server.ending(name)["reason"] == "deadline"


def test_any_other_stream_breaks_off_at_its_deadline(server: Server, gate: Gate, name: str) -> None:
    with server.connect() as raw:
        raw.request("GET", target("/paced", gate=gate.port, name=name, deadline=0.3))
        assert gate.wanted()
        assert raw.read_all() == Body(b"", complete=False)
    assert not gate.wanted()
    assert server.ending(name)["reason"] == "deadline"


def test_a_source_that_never_waits_has_a_deadline_too(server: Server, name: str) -> None:
    with server.connect() as raw:
        raw.request("GET", target("/endless", name=name, size=1000, deadline=0.3))
        while raw.read_piece() is not None:
            pass
        assert not raw.complete
    assert server.ending(name)["reason"] == "deadline"
    (left,) = server.notes(name)["left"]
    assert left.startswith("GeneratorExit: yield")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/endless?size=1024", id="for good"),
        pytest.param("/endless?size=1024&deadline=0.1", id="past the deadline"),
        pytest.param("/large?size=33554432", id="in the only chunk"),
    ],
)
def test_a_client_that_stops_reading_is_reset(server: Server, name: str, path: str) -> None:
    with slow(server, f"{path}&name={name}&send_timeout=0.5") as raw:
        # where the server does not tell of progress, the deadline may be first
        assert server.ending(name)["reason"] in ("stalled", "deadline")
        assert is_reset(raw)
    assert len(server.notes(name)["left"]) == 1


def test_a_client_that_stops_reading_in_the_last_piece_is_reset_too(
    server: Server, name: str
) -> None:
    path = target("/large", size=60_000, name=name, send_timeout=0.5)
    with slow(server, path) as raw:
        for _ in range(200):  # behind one another: more than the kernel keeps
            raw.ask("GET", path)

        def reasons() -> list[str]:
            return [ending["reason"] for ending in server.notes(name)["endings"]]

        eventually(lambda: "stalled" in reasons())
        assert set(reasons()[:-1]) == {"exhausted"}
        assert is_reset(raw)


@on_stream_worker
def test_a_client_that_is_stopped_is_reset(server: Server, name: str) -> None:
    path = target("/endless", name=name, size=1024, send_timeout=0.5)
    url = f"http://{server.running.host}:{server.running.port}{path}"
    with subprocess.Popen(["curl", "-sN", "-o", "/dev/null", url]) as curl:
        try:
            eventually(lambda: server.notes(name)["made"] > 16 * MB)
            curl.send_signal(signal.SIGSTOP)
            assert server.ending(name)["reason"] == "stalled"
            curl.send_signal(signal.SIGCONT)
            assert curl.wait(30) in (18, 56)  # a part of the body, a failure to receive
        finally:
            curl.kill()
    (left,) = server.notes(name)["left"]
    assert left.startswith("GeneratorExit")


@on_stream_worker
def test_a_client_that_reads_slowly_is_not_taken_for_one_that_has_stopped(
    server: Server, gate: Gate, name: str
) -> None:
    size = 32 * MB
    beats = target("/paced", gate=gate.port, heartbeat=0.5, beat=".")
    path = target("/large", name=name, size=size, send_timeout=3)
    with asked(server, beats) as (_, clock), slow(server, path) as raw:
        clock.head()
        raw.read_head()
        got = 0
        for share in range(1, 9):
            clock.next()
            while got < size * share // 8:
                piece = raw.read_piece()
                assert piece is not None, f"broken off after {got} bytes"
                got += len(piece.data)
        assert raw.read_all() == Body(b"", complete=True)
        gate.wanted()
    ending = server.ending(name)
    assert (ending["reason"], ending["bytes"]) == ("exhausted", size)
    assert ending["duration"] > 3, "too fast to show anything"


def test_on_end_is_told_how_a_stream_ended(server: Server, gate: Gate, name: str) -> None:
    path = target("/paced", gate=gate.port, count=3, name=name)
    with asked(server, path) as (_, response):
        assert gate.wanted()
        response.head()
        gate.next()
        assert gate.wanted()
        gate.end()
        chunks = list(iter(response.next, None))
    ending = server.ending(name)
    assert ending["duration"] > 0
    assert (ending["reason"], ending["bytes"], ending["chunks"]) == ("exhausted", 33, len(chunks))


@pytest.mark.parametrize("path", ["/fail", "/timeout"])
def test_the_error_event_is_told_and_counted(server: Server, name: str, path: str) -> None:
    before = len(server.running.log())
    with server.connect() as raw:
        raw.request("GET", target(path, name=name, type=EVENTS))
        body = raw.read_all()
        assert raw.read_rest() == b""
    assert not body.complete
    assert body.data.startswith(OPENING + FIRST + b"event: error\n")
    ending = server.ending(name)
    assert (ending["reason"], ending["bytes"]) == ("failed", len(body.data))
    eventually(lambda: f"GET {path} failed in mid-stream" in server.running.log()[before:])
    assert server.running.log()[before:].count("Traceback") == 1


def test_a_failure_in_on_end_is_logged_and_changes_nothing(server: Server, name: str) -> None:
    before = len(server.running.log())
    with server.connect() as raw:
        for _ in range(2):
            raw.request("GET", target("/ready", count=1, name=name, fails=1))
            assert raw.read_all() == Body(b"chunk 0\n", complete=True)
    eventually(lambda: server.running.log()[before:].count(f"on_end of {name}") == 2)
    assert "GET /ready: on_end failed" in server.running.log()[before:]


def test_a_stream_has_one_access_line(server: Server, name: str) -> None:
    before = len(server.running.log())
    with server.connect() as raw:
        raw.request("GET", target("/ready", count=3))
        raw.read_all()
    with server.connect() as raw:
        first_of(raw, target("/waits/sleep", name=name, type=TEXT))
    server.ending(name)

    def lines() -> list[str]:
        return re.findall(r"vento_wsgi\.access: (.*),", server.running.log()[before:])

    eventually(lambda: len(lines()) >= 2)
    assert lines() == [
        "GET /ready exhausted: 24 bytes, 1 pieces",
        "GET /waits/<how> disconnected: 13 bytes, 1 pieces",
    ]


# Servers that have threads.


@pytest.mark.parametrize(
    ("kind", "query", "beat"),
    [(EVENTS, {"heartbeat": 0.3}, COMMENT), (TEXT, {"heartbeat": 0.3, "beat": "%0A"}, b"\n")],
    ids=["comments", "newlines"],
)
def test_a_heartbeat_that_was_asked_for_comes_without_gevent(
    threaded: Server, gate: Gate, kind: str, query: dict[str, object], beat: bytes
) -> None:
    assert_heartbeat(threaded, gate, kind, query, beat)


@of_each_kind
def test_a_deadline_that_was_asked_for_comes_without_gevent(
    threaded: Server, gate: Gate, kind: str, name: str
) -> None:
    path = target("/paced", gate=gate.port, type=kind, name=name, deadline=0.3)
    with threaded.connect() as raw:
        raw.request("GET", path, f"Accept: {EVENTS}")
        assert gate.wanted()
        expected = Body(OPENING, complete=True) if kind == EVENTS else Body(b"", complete=False)
        assert raw.read_all() == expected
    assert threaded.ending(name)["reason"] == "deadline"
    gate.next()  # a thread cannot be interrupted: its source ends with the next item
    assert not gate.wanted()


def test_a_source_that_was_promised_nothing_runs_in_the_servers_own_thread(
    threaded: Server, gate: Gate, name: str
) -> None:
    assert threads_of(threaded, gate, target("/threads", gate=gate.port, name=name), name) == 1


def test_a_source_with_a_deadline_runs_to_its_finally_block_in_a_thread_of_its_own(
    threaded: Server, gate: Gate, name: str
) -> None:
    path = target("/threads", gate=gate.port, name=name, deadline=100)
    assert threads_of(threaded, gate, path, name) == 2


def threads_of(server: Server, gate: Gate, path: str, name: str) -> int:
    with server.connect() as raw:
        raw.ask("GET", path)
        for _ in range(2):
            assert gate.wanted()
            gate.next()
        assert gate.wanted()
        gate.end()
        raw.read_head()
        assert raw.read_all() == Body(b"chunk 1\nchunk 2\n", complete=True)
    assert server.ending(name)["reason"] == "exhausted"
    threads: int = server.notes(name)["threads"]
    return threads


@pytest.mark.parametrize("policy", [{}, {"deadline": 100}], ids=["in place", "in a thread"])
def test_a_source_has_the_context_of_its_handler_until_its_finally_block(
    threaded: Server, gate: Gate, name: str, policy: dict[str, object]
) -> None:
    with threaded.connect() as raw:
        raw.ask("GET", target("/context", gate=gate.port, name=name, **policy))
        assert gate.wanted()
        gate.next()
        assert gate.wanted()
        gate.end()
        raw.read_head()
        assert raw.read_all() == Body(b"the handler, the source\n", complete=True)
    assert threaded.notes(name)["left"] == ["the handler"]


@of_each_kind
def test_a_failure_in_a_thread_is_told_like_any_other(
    threaded: Server, kind: str, name: str
) -> None:
    before = len(threaded.running.log())
    with threaded.connect() as raw:
        raw.request("GET", target("/fail", name=name, type=kind, deadline=100))
        body = raw.read_all()
    assert not body.complete
    assert FIRST in body.data
    assert (b"event: error\n" in body.data) is (kind == EVENTS)
    assert threaded.ending(name)["reason"] == "failed"
    log = threaded.running.log()[before:]
    assert log.count(f"RuntimeError: told to fail: {name}") == 1


@pytest.mark.parametrize("policy", [{}, {"deadline": 100}], ids=["in place", "in a thread"])
def test_a_client_that_leaves_has_its_source_closed_at_a_later_item(
    threaded: Server, gate: Gate, name: str, policy: dict[str, object]
) -> None:
    with threaded.connect() as raw:
        raw.ask("GET", target("/paced", gate=gate.port, name=name, **policy))
        assert gate.wanted()
        gate.next()
        raw.read_head()
        raw.read_piece()
    while gate.wanted():
        gate.next()
    assert threaded.ending(name)["reason"] == "disconnected"
