"""Heartbeats, deadlines, clients that stop reading, and what on_end is told."""

import re
import signal
import subprocess

import pytest
from support.engine import (
    EVENTS,
    FIRST,
    MB,
    TEXT,
    Server,
    asked,
    assert_heartbeat,
    first_of,
    on_stream_worker,
    slow,
    with_heartbeats,
)
from support.gates import Gate
from support.servers import COMMENT, OPENING, Body, eventually, is_reset, target

# Heartbeats.


@with_heartbeats
def test_a_silent_stream_has_a_heartbeat(
    server: Server, gate: Gate, kind: str, query: dict[str, object], beat: bytes
) -> None:
    assert_heartbeat(server, gate, kind, query, beat)


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
