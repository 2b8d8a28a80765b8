"""One connection, looked at more closely; files on it, and what the access log says."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps.legacy import content
from conformance.differential.better import BETTER
from conformance.differential.cases import BODIES, ask, bodies, make, named
from conformance.differential.workers import (
    ACCESS,
    OURS,
    Pair,
    Server,
    answers,
    finish,
    let,
    run_legacy,
)
from support.servers import Body, connect, eventually, get, reset_on_close, serve


def test_an_application_finds_the_connection_in_its_environ(pair: Pair) -> None:
    stock, ours = (set(get(server.running, "/keys")[1].data.split()) for server in pair)
    assert ours - stock == {
        b"vento_wsgi.connection",
    }
    assert stock <= ours


def test_one_connection_carries_all_kinds_of_responses(pair: Pair) -> None:
    wrong = [better for better in BETTER if better.stock]
    cases = [case for case in bodies() if case.says(body="|".join(BODIES))]
    cases = [case for case in cases if not any(better.when(case) for better in wrong)]
    assert len(cases) > 100
    shown: list[list[object]] = []
    for server in pair:
        with connect(server.running) as raw:
            shown.append([])
            for case in cases:
                raw.send(case.data)
                head = raw.read_head()
                fields = [line for line in head.headers if line[0] != "Date"]
                shown[-1].append((case.name, head.status, fields, raw.read_all()))
                answers(raw)
    assert shown[1] == shown[0]


@pytest.mark.parametrize(
    ("method", "status"), [("GET", "200 OK"), ("HEAD", "200 OK"), ("GET", "304 Same")]
)
def test_an_empty_chunk_sends_the_head_while_the_source_waits(
    server: Server, name: str, method: str, status: str
) -> None:
    query = f"name={name}&opening=yes&items=1&status={status.replace(' ', '+')}"
    with connect(server.running) as raw:
        assert raw.request(method, f"/steps?{query}").status == int(status[:3])
        let(server.running, name)
        raw.read_all()
        answers(raw)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 None")])
def test_a_source_without_end_does_not_keep_a_head_without_body_back(
    server: Server, name: str, method: str, status: str
) -> None:
    let(server.running, name)
    with connect(server.running) as raw:
        path = f"/steps?name={name}&items=2&status={status.replace(' ', '+')}"
        assert raw.request(method, path).status == int(status[:3])
        let(server.running, name)
        answers(raw)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_each_chunk_leaves_before_the_next_is_made(server: Server, name: str, version: str) -> None:
    with connect(server.running) as raw:
        raw.send(ask("GET", f"/steps?name={name}&items=3&opening=yes", version=version))
        head = raw.read_head()
        assert ("Transfer-Encoding" in head.headers) == (version == "1.1")
        for number in range(3):
            let(server.running, name)
            piece = raw.read_piece()
            assert piece is not None
            assert piece.data == b"item %d\n" % number
        assert raw.read_all() == Body(b"", complete=True)
        if version == "1.1":
            answers(raw)
        else:
            assert raw.read_rest() == b""


def test_a_client_that_leaves_ends_its_generator_at_the_next_write(
    server: Server, name: str
) -> None:
    with connect(server.running) as raw:
        raw.request("GET", f"/steps?name={name}&opening=yes")
        reset_on_close(raw.sock)
    let(server.running, name, times=3)
    eventually(lambda: f"{name}: GeneratorExit" in server.journal.read_text())


def test_head_chunk_and_end_of_a_response_arrive_together(ours: Server) -> None:
    with connect(ours.running) as raw:
        for chunks in ("5", "10000") * 10:
            raw.send(make(body="list", chunks=chunks).data)
            assert raw.sock.recv(1 << 16).endswith(b"\r\n0\r\n\r\n")


PACKETS = """
import socket
def post_worker_init(worker):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind({path!r})
    listener.listen()
    worker.sockets.append(listener)
"""


@pytest.mark.parametrize("length", ["", "15"])
@pytest.mark.parametrize("body", ["list", "generator", "own", "file"])
def test_no_response_ends_with_a_send_of_nothing(tmp_path: Path, body: str, length: str) -> None:
    """Here each send is a message of its own, which the next read gives, be it empty."""
    settings, path = tmp_path / "settings.py", str(tmp_path / "socket")
    settings.write_text(PACKETS.format(path=path))
    request = make(body=body, chunks="5,10", **named(length=length)).data
    with (
        run_legacy(OURS, tmp_path, f"-c={settings}"),
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
    ):
        client.settimeout(30)
        client.connect(path)
        for _ in range(3):
            client.sendall(request)
            end = content(0, 15)[-5:] if length else b"0\r\n\r\n"
            said = client.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 200")
            while not said.endswith(end):
                more = client.recv(1 << 16)
                assert more
                said += more


@pytest.mark.parametrize("body", ["list", "generator", "write", "memory", "file"])
@pytest.mark.parametrize("length", ["", "8000010"])
def test_a_body_that_the_socket_does_not_take_at_once_arrives_whole(
    server: Server, body: str, length: str
) -> None:
    query = {"body": body, "chunks": "8000000,10", "block": "9000000", **named(length=length)}
    with connect(server.running) as raw:
        for _ in range(2):
            raw.send(make(**query).data)
            raw.read_head()
            assert raw.read_all() == Body(content(0, 8_000_010), complete=True)
        answers(raw)


@pytest.fixture(scope="module")
def vento(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our own application on our own worker."""
    tmp = tmp_path_factory.mktemp("vento")
    (tmp / "data.bin").write_bytes(content(0, 3_000_000))
    options = [f"--access-logfile={tmp / 'access'}", f"--access-logformat={ACCESS}"]
    options += ["--no-control-socket", "--keep-alive=20"]
    with serve(
        OURS, "apps.gunicorn_app:app", tmp=tmp, env={"FILES": str(tmp)}, options=options
    ) as running:
        yield Server(running, tmp)


@pytest.mark.parametrize(
    ("request_line", "field"),
    [
        ("GET /hello", ""),
        ("HEAD /hello", ""),
        ("GET /kept", ""),
        ("HEAD /kept", ""),
        ("GET /fail/name", ""),
        ("GET /fail/name?type=text/event-stream", ""),
        ("GET /early/name", ""),
        ("GET /announced?says=10&sends=10", ""),
        ("GET /announced?says=10&sends=7", ""),
        ("GET /announced?says=10&sends=13", ""),
        ("GET /announced?says=0&sends=0", ""),
        ("GET /file/data.bin", ""),
        ("HEAD /file/data.bin", ""),
        ("GET /file/data.bin", "Range: bytes=1000-1999999"),
        ("GET /file/data.bin", "Range: bytes=5-"),
        ("GET /file/data.bin", "Range: bytes=0-9,1000-2000000"),
        ("GET /file/data.bin", "Range: bytes=3000000-"),
        ("GET /file/data.bin", "If-None-Match: *"),
        ("GET /nowhere", ""),
        ("OPTIONS /hello", ""),
    ],
)
def test_the_access_log_tells_the_status_and_the_bytes_of_the_body(
    vento: Server, request_line: str, field: str
) -> None:
    method, path = request_line.split(" ")
    vento.new_lines(vento.access)
    with connect(vento.running) as raw:
        head = raw.request(method, path, *filter(None, [field]), "Connection: close")
        body = raw.read_all()
        assert raw.read_rest() == b""
    if field.startswith("Range") and head.status == 206 and "," not in field:
        start, stop = re.findall(r"\d+", head.headers["Content-Range"])[:2]
        assert body == Body(content(int(start), int(stop) + 1), complete=True)
    path, _, query = path.partition("?")
    assert vento.new_lines(vento.access) == [
        f"{method} {path} {query} {head.status} {len(body.data)}"
    ]


def test_a_file_is_sent_without_being_read(ours: Server) -> None:
    ours.new_lines(ours.journal)
    with connect(ours.running) as raw:
        raw.send(make(body="noted file", chunks="3000000", length="3000000").data)
        raw.read_head()
        assert raw.read_all() == Body(content(0, 3_000_000), complete=True)
        answers(raw)
    assert ours.new_lines(ours.journal) == ["file closed"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Same")])
def test_a_file_that_is_not_sent_is_not_read(server: Server, method: str, status: str) -> None:
    server.new_lines(server.journal)
    with connect(server.running) as raw:
        query = {"body": "noted file", "chunks": "3000000", "length": "3000000"}
        raw.send(make(method=method, status=status, **query).data)
        assert raw.read_head().headers["Content-Length"] == "3000000"
        answers(raw)
    assert server.new_lines(server.journal) == ["file closed"]


def test_without_sendfile_a_file_is_read(tmp_path: Path) -> None:
    with run_legacy(OURS, tmp_path, "--no-sendfile") as server, connect(server.running) as raw:
        raw.send(make(body="noted file", chunks="3000000", length="3000000").data)
        raw.read_head()
        assert raw.read_all() == Body(content(0, 3_000_000), complete=True)
        raw.send(make(body="file at 7", chunks="9,11", length="10").data)
        raw.read_head()
        assert raw.read_all() == Body(content(7, 17), complete=True)
        finish(raw)
        read, *_, closed = server.new_lines(server.journal)
        assert (read, closed) == ("file read", "file closed")
        access = server.new_lines(server.access)
        assert access[-3].endswith("length=3000000 200 3000000")
        assert access[-2].endswith("length=10 200 10")
