"""Streams on servers with threads, without gevent."""

import pytest
from support.engine import EVENTS, FIRST, Server, assert_heartbeat, of_each_kind, with_heartbeats
from support.gates import Gate
from support.servers import OPENING, Body, target


@with_heartbeats
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
