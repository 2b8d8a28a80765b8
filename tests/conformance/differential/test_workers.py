"""How workers live: their hooks, connections that wait, and how they stop."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from conformance.differential.cases import HEADS, Case, ask, make
from conformance.differential.workers import (
    OURS,
    Pair,
    Server,
    answers,
    let,
    on_both,
    run_legacy,
    run_pair,
)
from support.servers import STOCK, Body, Raw, connect, eventually, get

HOOKS = """
import os

def note(what):
    with open(os.environ["HOOKS"], "a") as notes:
        notes.write(what + "\\n")

def pre_request(worker, req):
    note(f"before {req.method} {req.uri}")
    if "refused" in req.uri:
        raise RuntimeError("refused")

def post_request(worker, req, environ, resp):
    note(f"after {req.method} {req.uri} {environ.get('PATH_INFO')} {resp and resp.status}")
    if "failing-hook" in req.uri:
        raise RuntimeError("the hook fails")

def post_worker_init(worker):
    note("worker begins")

def worker_exit(server, worker):
    note("worker ends")

def child_exit(server, worker):
    note("child ends")
"""


HOOKED = [
    make(body="list", chunks="5"),
    make(body="file", chunks="5", length="5"),
    make(method="HEAD", body="own", chunks="5"),
    make(body="own", chunks="5", fail="call"),
    make(body="own", chunks="5,3", fail="mid"),
    make(body="own", chunks="5,3", fail="close"),
    make(body="own", chunks="5,3", refused="yes"),
    make(body="list", chunks="5", **{"failing-hook": "yes"}),
    Case("no request", HEADS["garbage"], ["GET"]),
]


def test_the_hooks_are_called_as_by_gunicorns_worker(tmp_path: Path, http_parser: str) -> None:
    def noted(name: str) -> list[str]:
        tmp = tmp_path / name
        tmp.mkdir()
        (tmp / "hooks.py").write_text(HOOKS)
        env = {"HOOKS": str(tmp / "noted")}
        options = ("-c", str(tmp / "hooks.py"), "--keep-alive=0", f"--http-parser={http_parser}")
        with run_legacy(name, tmp, *options, env=env) as server:
            for case in HOOKED:
                show = server.shows(case)
                assert show.end in ("closed", "broken off")
                assert "Connection: close" in show.answers[0].fields
        return (tmp / "noted").read_text().splitlines()

    stock, ours = on_both(noted, (STOCK, OURS))
    assert ours == stock
    assert stock[0] == "worker begins"
    assert stock[-2:] == ["worker ends", "child ends"]
    assert {
        "before GET /make?body=list&chunks=5",
        "after GET /make?body=list&chunks=5 /make 200 OK",
        "after GET /make?body=own&chunks=5&fail=call /make None",
        "after GET /make?body=own&chunks=5,3&refused=yes None None",
    } <= set(stock)


KEEPALIVE = 1.0


@pytest.fixture(scope="module")
def brief(http_parser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Servers that soon close connections that wait."""
    with run_pair(tmp_path_factory, http_parser, f"--keep-alive={KEEPALIVE:.0f}") as pair:
        yield pair


def until_readable(raw: Raw) -> Iterator[None]:
    """Something to do every now and then until the server says something or closes."""
    for _ in range(200):
        if select.select([raw.sock], [], [], 0.05)[0]:
            return
        yield
    raise AssertionError("the connection stays open")


def test_a_connection_without_a_request_is_closed_when_its_time_is_up(brief: Pair) -> None:
    def check(server: Server) -> None:
        start = time.monotonic()
        with connect(server.running) as fresh, connect(server.running) as used:
            answers(used)
            assert used.read_rest() == b""
            assert fresh.read_rest() == b""
        assert time.monotonic() - start >= KEEPALIVE

    on_both(check, brief)


def test_a_head_that_comes_too_slowly_is_not_waited_for(brief: Pair) -> None:
    def check(server: Server) -> None:
        start = time.monotonic()
        with connect(server.running) as raw:
            raw.send(b"GET / HTTP/1.1\r\nX-Slow: ")
            with suppress(ConnectionError):
                for _ in until_readable(raw):
                    raw.send(b"x")  # it goes on coming
                answer = raw.read_rest()
                late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
                assert answer.startswith(late if server.running.server == OURS else b"")
                assert (answer == b"") is (server.running.server == STOCK)
        assert time.monotonic() - start >= KEEPALIVE

    on_both(check, brief)


def test_a_request_that_is_sent_or_answered_for_longer_is_not_cut(brief: Pair, name: str) -> None:
    def check(server: Server) -> None:
        running = server.running
        with connect(running) as stream, connect(running) as upload:
            stream.request("GET", f"/steps?name={name}&items=2&opening=yes")
            upload.send(ask("POST", "/upload", "Content-Length: 10", body=b"01234"))
            eventually(lambda: "upload begins" in server.new_lines(server.journal))
            for number in range(2):
                with connect(running) as idle:
                    answers(idle)
                    assert idle.read_rest() == b""  # the time is up
                let(running, name)
                piece = stream.read_piece()
                assert piece is not None
                assert piece.data == b"item %d\n" % number
            upload.send(b"56789")
            upload.read_head()
            assert upload.read_all() == Body(b"10", complete=True)
            assert stream.read_all() == Body(b"", complete=True)
            answers(stream)
            answers(upload)

    on_both(check, brief)


def test_a_connection_that_is_used_again_and_again_is_kept(brief: Pair) -> None:
    def check(server: Server) -> None:
        with connect(server.running) as raw, connect(server.running) as idle:
            answers(idle)
            for _ in until_readable(idle):
                answers(raw)
            answers(raw)

    on_both(check, brief)


def test_a_worker_that_has_served_enough_is_replaced_without_loss(tmp_path: Path) -> None:
    def shown(name: str) -> list[str]:
        tmp = tmp_path / name
        tmp.mkdir()
        with run_legacy(name, tmp, "--max-requests=8") as server:
            running = server.running
            process = int(get(running, "/process")[1].data)  # the first was that of serve()
            with connect(running) as half, connect(running) as raw:
                answers(half)
                half.send(b"GET /last HTTP/1.1\r\n")
                connections = [""]
                while connections[-1] != "close":
                    connections.append(raw.request("GET", "/last").headers["Connection"])
                    assert raw.read_all() == Body(b"last", complete=True)
                assert raw.read_rest() == b""
                # what was begun before the worker was told to stop is still answered
                half.send(b"Host: test\r\n\r\n")
                assert half.read_head().headers["Connection"] == "close"
                assert half.read_all() == Body(b"last", complete=True)
                assert half.read_rest() == b""
            eventually(lambda: gone(process), explain=running.log)
            assert int(get(running, "/process")[1].data) != process
            assert "Traceback" not in running.log()
        return connections

    stock, ours = on_both(shown, (STOCK, OURS))
    assert ours == stock
    assert len(stock) == 6


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_connection_that_waits_does_not_hold_a_worker_that_stops(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    options = ("--graceful-timeout=600", f"--bind=unix:{address}")
    with run_legacy(OURS, tmp_path, *options) as server:
        process = int(get(server.running, "/process")[1].data)
        with ExitStack() as stack:
            waiting = [stack.enter_context(connect(server.running)) for _ in range(5)]
            for _ in range(2):
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(stack.enter_context(Raw(sock, server.running)))
                sock.settimeout(30)
                sock.connect(address)
            for raw in waiting:
                answers(raw)
            os.kill(process, signal.SIGTERM)
            for raw in waiting:
                assert raw.read_rest() == b""
        eventually(lambda: gone(process), explain=server.running.log)
        answer, _ = get(server.running, "/last")  # the next one serves
        assert answer.status == 200
