"""StreamWorker and its clients: how long it waits for them, and whose an error is.

A limit of a second stands for the minute that is the default. How long a wait lasts is not
measured: each of these connections stays open for ever without a limit.
"""

import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.servers import (
    STREAM_WORKER,
    Raw,
    Running,
    connect,
    eventually,
    reset_on_close,
    serve,
)
from support.tls import Certificate

LIMIT = 1.0  # seconds
BODIES = (
    ("Content-Length: 1000000", b"x"),
    ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
)
TIMEOUT = b"HTTP/1.1 408 "


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("receive")
    env = {"VENTO_RECEIVE_TIMEOUT": str(LIMIT)}
    options = ("--keep-alive=0", "--no-control-socket", "--access-logfile=/dev/null")
    with serve(
        "gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp, env=env, options=options
    ) as running:
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same with the usual limits."""
    tmp = tmp_path_factory.mktemp("patient")
    options = ("--keep-alive=30", "--no-control-socket", "--access-logfile=/dev/null")
    with serve("gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp, options=options) as running:
        yield running


def trickle_on(raw: Raw, data: bytes = b"x") -> bytes:
    """Send `data` again and again until the server says something or closes; what it says."""
    for _ in range(400):
        if select.select([raw.sock], [], [], 0.05)[0]:
            return raw.sock.recv(1 << 16)
        raw.sock.sendall(data)
    pytest.fail("the connection stays open")


def trickle(raw: Raw, data: bytes = b"x") -> bytes:
    """The same, and all that comes then."""
    with suppress(ConnectionError):
        return trickle_on(raw, data) + raw.read_rest()
    return b""


def post(path: str, field: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n".encode()


# Waits.


def together(check: Callable[..., None], *cases: tuple[Any, ...]) -> None:
    """Check all cases at once, since each has to wait for the server."""
    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(check, *case) for case in cases]:
            done.result()


def test_a_client_that_says_nothing_is_not_waited_for(running: Running) -> None:
    with connect(running) as raw:
        assert raw.read_rest() == b""


def test_a_head_that_does_not_come_whole_is_a_408(running: Running) -> None:
    def check(head: bytes, trickles: bool) -> None:
        with connect(running) as raw:
            raw.send(head)
            answer = trickle(raw, b"x" if trickles else b"")
        assert answer.startswith(TIMEOUT)
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\n") is head.startswith(b"HEAD")

    parts = (b"G", b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"HEAD /")
    together(check, *product(parts, (True, False)))


def test_without_a_limit_a_body_may_take_its_time(tmp_path: Path) -> None:
    env = {"VENTO_RECEIVE_TIMEOUT": "0"}
    options = ("--keep-alive=1", "--no-control-socket", "--access-logfile=/dev/null")
    with (
        serve(
            STREAM_WORKER,
            "apps.receiving:app",
            tmp=tmp_path,
            env=env,
            options=options,
        ) as running,
        connect(running) as raw,
    ):
        raw.send(post("/read", "Content-Length: 3") + b"a")
        with connect(running) as idle:
            assert idle.read_rest() == b""  # the worker has looked at the time
        raw.send(b"bc")
        assert raw.read_head().status == 200


def test_a_body_that_comes_too_slowly_is_a_408(running: Running) -> None:
    def check(path: str, field: str, piece: bytes, trickles: bool) -> None:
        with connect(running) as raw:
            raw.send(post(path, field) + piece)
            answer = trickle(raw, piece if trickles else b"")
        assert answer.startswith(TIMEOUT)
        assert b"\r\nConnection: close\r\n" in answer

    paths = ("/read", "/app/read", "/flask")
    together(
        check,
        *((path, *sent, slow) for path, sent, slow in product(paths, BODIES, (True, False))),
    )


def test_a_body_that_trickles_breaks_a_response_off_that_has_begun(running: Running) -> None:
    start = len(running.log())

    def check(path: str, field: str, piece: bytes) -> None:
        with connect(running) as raw:
            raw.send(post(path, field) + piece)
            assert raw.read_head().status == 200
            rest = b""
            with suppress(ConnectionError):
                while data := trickle_on(raw, piece):
                    rest += data
        assert b"HTTP/1.1" not in rest
        assert not rest.endswith(b"0\r\n\r\n")

    paths = ("/generator", "/app/stream", "/app/raw", "/flask/stream")
    together(check, *((path, *sent) for path, sent in product(paths, BODIES)))
    ends = re.findall(r"POST /app/\w+ (\w+): ", running.log()[start:])
    assert ends == ["disconnected"] * 4
    assert not troubles(running)


def test_a_body_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    def check(field: str, piece: bytes) -> None:
        with connect(keeping) as raw:
            raw.send(post("/unread", field))
            assert raw.read_head().status == 200
            assert raw.read_all().data == b"unread"
            assert trickle(raw, piece * 100) == b""  # faster than a body that is read has to be

    env = {"VENTO_RECEIVE_TIMEOUT": str(LIMIT)}
    options = ("--keep-alive=30", "--no-control-socket")
    with serve(
        "gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, env=env, options=options
    ) as keeping:
        together(check, *BODIES)


def test_a_body_that_comes_steadily_is_read_whole(running: Running) -> None:
    with connect(running) as raw, connect(running) as other:
        raw.send(post("/read", "Content-Length: 200000"))
        left = 200_000
        for _ in range(2):
            with connect(running) as other:
                while not select.select([other.sock], [], [], 0.05)[0]:
                    raw.send(b"x" * 100)
                    left -= 100
        raw.send(b"x" * left)
        assert raw.read_head().status == 200
        assert raw.read_rest().startswith(b"6\r\n200000\r\n")


def test_only_the_time_counts_in_which_a_body_is_waited_for(running: Running) -> None:
    with connect(running) as raw:
        raw.send(post("/later", "Content-Length: 5"))
        for _ in range(2):
            with connect(running) as other:
                assert other.read_rest() == b""  # the time is up
        raw.send(b"12345")
        with connect(running) as other:
            other.request("GET", "/go")
        assert raw.read_head().status == 200
        assert raw.read_rest().startswith(b"1\r\n5\r\n")


def hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("on_connect", [True, False])
def test_a_tls_hello_that_does_not_come_is_not_waited_for(
    certificate: Certificate, tmp_path: Path, on_connect: bool
) -> None:
    options = ["--keep-alive=0", "--no-control-socket"]
    options += ["--do-handshake-on-connect"] if on_connect else []
    env = {"VENTO_RECEIVE_TIMEOUT": str(LIMIT)}
    with serve(
        STREAM_WORKER,
        "apps.receiving:app",
        tmp=tmp_path,
        env=env,
        options=options,
        certificate=certificate,
    ) as running:
        plain = replace(running, tls=None)
        for said in (b"", hello()[:20], hello()):
            with connect(plain) as raw:
                raw.sock.sendall(said)
                raw.read_rest()
        with connect(plain) as raw:
            raw.sock.sendall(hello()[:20])
            assert trickle(raw, b"\0") is not None
        with connect(plain) as raw:
            raw.sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert b"HTTP/" not in raw.read_rest()
        with connect(running) as raw:
            raw.sock.sendall(b"GET / HT")
            assert raw.read_rest().startswith(TIMEOUT)
        with connect(running) as raw:
            assert raw.request("GET", "/unread").status == 200
        assert not troubles(running)


@pytest.mark.parametrize(
    "said", [b"", b"PROXY TCP4 1.2.3.4", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
)
def test_a_proxy_line_that_does_not_come_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    env = {"VENTO_RECEIVE_TIMEOUT": str(LIMIT)}
    options = ("--keep-alive=0", "--no-control-socket", "--proxy-protocol=auto")
    with (
        serve(
            "gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, env=env,
            options=options,
        ) as running,
        connect(running) as raw,
    ):  # fmt: skip
        raw.sock.sendall(said)
        assert raw.read_rest().startswith(TIMEOUT) is bool(said)


def test_our_settings_allow_request_lines_of_8000_octets(tmp_path: Path) -> None:
    options = ("-c", "python:vento_wsgi.server.config", "--no-control-socket")
    with (
        serve(
            "gunicorn-StreamWorker", "apps.receiving:app", tmp=tmp_path, options=options
        ) as running,
        connect(running) as raw,
    ):
        line = len("GET  HTTP/1.1")
        assert raw.request("GET", "/" + "x" * (8000 - line - 1)).status == 200
        raw.read_all()
        assert raw.request("GET", "/" + "x" * (8191 - line - 1)).status == 414


# Clients that leave.


def troubles(running: Running) -> list[str]:
    """The lines of a log that speak of errors."""
    return re.findall(r"^.*(?:Traceback|\bERROR\b|\bWARNING\b|Error\b).*$", running.log(), re.M)


PARTS = {
    "length": ("Content-Length: 1000", b"some"),
    "chunk size": ("Transfer-Encoding: chunked", b"5"),
    "chunk": ("Transfer-Encoding: chunked", b"5\r\nso"),
    "end of chunk": ("Transfer-Encoding: chunked", b"4\r\nsome"),
    "next chunk": ("Transfer-Encoding: chunked", b"4\r\nsome\r\n"),
    "trailer": ("Transfer-Encoding: chunked", b"4\r\nsome\r\n0\r\nX: "),
}
UPLOADS = (
    *("/read", "/wrapped", "/generator", "/unread"),
    *("/app/read", "/app/stream", "/app/raw", "/app/events", "/flask", "/flask/stream"),
)


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_in_mid_upload_is_no_error(
    patient: Running, path: str, how: str
) -> None:
    before, start = troubles(patient), len(patient.log())
    for field, part in PARTS.values():
        with connect(patient) as raw:
            raw.sock.sendall(post(path, field) + part)
            if how == "resets":
                reset_on_close(raw.sock)
    eventually(lambda: served(patient) == 1, explain=patient.log)
    assert troubles(patient) == before
    if path.startswith("/app/") and path != "/app/read":
        ends = re.findall(rf"POST {path} (\w+): ", patient.log()[start:])
        assert set(ends) <= {"disconnected"}


def served(running: Running) -> int:
    """How many connections are open at the server, with the one that asks the kernel here."""
    with connect(running):
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        port = f":{running.port:04X}"
        return sum(
            line.split()[1].endswith(port) and line.split()[3] in ("01", "08") for line in lines
        )


@pytest.mark.parametrize("path", ["/read", "/wrapped", "/app/read", "/flask"])
@pytest.mark.parametrize("part", PARTS)
def test_a_client_that_closes_its_own_side_in_mid_upload_is_told(
    patient: Running, path: str, part: str
) -> None:
    field, data = PARTS[part]
    with connect(patient) as raw:
        raw.send(post(path, field) + data)
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.read_head().status == 400


# Errors of the application's own upstreams.

NAMES = {
    "pipe": "BrokenPipeError",
    "reset": "ConnectionResetError",
    "tls": "ssl.SSLError",
    "slow": "TimeoutError",
    "disconnected": "http.client.RemoteDisconnected",
    "aborted": "ConnectionAbortedError",
    "eof": "ssl.SSLEOFError",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", ["call", "first", "mid", "length", "write"])
def test_an_upstream_that_fails_is_a_failure_of_the_application(
    patient: Running, name: str, at: str
) -> None:
    start = len(patient.log())
    with connect(patient) as raw:
        raw.ask("GET", f"/upstream?&{name}&{at}")
        head = raw.read_head()
        if at in ("call", "first"):
            assert head.status == 500
            assert raw.read_all().complete
        else:
            assert head.status == 200
            body = raw.read_all()
            assert (body.data, body.complete) == (b"begun", False)
        assert raw.read_rest() == b""
    log = patient.log()[start:]
    assert log.count("Traceback") >= 1
    assert log.count("[ERROR] Error handling request") == 1
    assert f"\n{NAMES[name]}: " in log


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", ["call", "first", "mid"])
def test_the_same_in_a_stream(patient: Running, name: str, at: str) -> None:
    start = len(patient.log())
    with connect(patient) as raw:
        head = raw.request("GET", f"/app/upstream?name={name}&at={at}")
        if at == "call":
            assert head.status == 500
        body = raw.read_all()
        if at == "mid":
            assert (body.data, body.complete) == (b"begun", False)
        assert head.status == 500 or not body.complete
        if at != "call":
            assert raw.read_rest() == b""
    log = patient.log()[start:]
    assert f"\n{NAMES[name]}: " in log


@pytest.mark.parametrize("name", NAMES)
def test_a_page_for_an_upstream_that_fails_has_no_body_for_head(
    patient: Running, name: str
) -> None:
    with connect(patient) as raw:
        assert raw.request("HEAD", f"/upstream?&{name}&call").status == 500
        assert raw.read_rest() == b""
