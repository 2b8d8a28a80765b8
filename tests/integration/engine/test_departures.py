"""Clients that disconnect: each is noticed, its source is interrupted, nothing stays behind."""

import socket
from collections import Counter
from contextlib import ExitStack

import pytest
from support.engine import EVENTS, FIRST, TEXT, Server, asked, first_of, of_each_kind, slow
from support.gates import Gate
from support.servers import (
    COMMENT,
    OPENING,
    STREAM_WORKER,
    Body,
    Raw,
    eventually,
    reset_on_close,
    target,
)

from vento_wsgi.streaming.greenlet_pump import MAX_SOURCES

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
            reset_on_close(raw.sock)
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
        eventually(lambda: server.census()["ticker's suspects"] == 1)
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
        eventually(lambda: server.census()["ticker's suspects"] == 1)


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
                reset_on_close(sock)


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
        reset_on_close(raw.sock)
    gate.end()
    assert server.ending(name)["reason"] == "disconnected"
    eventually(lambda: server.census()["Stream"] == before["Stream"])
    assert server.census()["ticker's members"] == before["ticker's members"]
