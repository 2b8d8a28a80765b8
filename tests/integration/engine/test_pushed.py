"""What leaves when on StreamWorker, where a source pushes its chunks into the connection."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from support.fixtures import served
from support.gates import Gate
from support.servers import STREAM_WORKER, Raw, Running, connect, eventually, get, serve
from support.tls import Certificate

running = served("apps.pushed:app", STREAM_WORKER)

KINDS = ["bare", "ours"]


def pieces(raw: Raw) -> list[bytes]:
    """The chunks of HTTP that are left: each is one write of the server."""
    found = []
    while (piece := raw.read_piece()) is not None:
        found.append(piece.data)
    return found


def first(raw: Raw) -> bytes:
    piece = raw.read_piece()
    assert piece is not None
    return piece.data


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_that_are_ready_together_leave_together(running: Running, kind: str) -> None:
    with connect(running) as raw:
        raw.request("GET", f"/{kind}/ready/0")
        assert pieces(raw) == [b"first second "]


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_waits_holds_nothing_back(running: Running, kind: str, gate: Gate) -> None:
    with connect(running) as raw:
        raw.request("GET", f"/{kind}/waits/{gate.port}")
        assert first(raw) == b"first second "
        assert gate.wanted()
        gate.next()
        # the third comes out of the wait, and may leave alone
        assert b"".join(pieces(raw)) == b"third last"


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_computes_holds_a_chunk_back_once_at_most(
    running: Running, kind: str
) -> None:
    with connect(running) as raw:
        raw.request("GET", f"/{kind}/computes/0")
        found = pieces(raw)
    assert b"".join(found).startswith(b"first second 0 ")
    assert len(found) >= 3, "each leaves before the next one is computed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_greenlet_of_its_request_and_no_other(
    running: Running, kind: str, gate: Gate
) -> None:
    def greenlets() -> int:
        return int(get(running, "/greenlets")[1].data)

    before = min(greenlets() for _ in range(3))  # those of earlier connections end meanwhile
    with ExitStack() as stack:
        for _ in range(5):
            raw = stack.enter_context(connect(running))
            raw.request("GET", f"/{kind}/waits/{gate.port}")
            assert first(raw) == b"first second "
        eventually(lambda: greenlets() <= before + 5, explain=lambda: f"{before}, {greenlets()}")


@pytest.mark.parametrize("path", ["/text", "/ready", "/bare/ready/0"])
def test_a_request_leaves_nothing_for_the_garbage_collector(running: Running, path: str) -> None:
    with connect(running) as raw:

        def ask(path: str) -> bytes:
            raw.request("GET", path)
            return raw.read_all().data

        for _ in range(5):
            ask(path)
        ask("/gc/off")
        for _ in range(50):
            ask(path)
        assert int(ask("/gc/on")) < 50


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_large_item_arrives_whole(
    tmp_path: Path, certificate: Certificate, *, secure: bool
) -> None:
    """Also where the kernel takes some of it, and the rest has to wait."""
    tls = certificate if secure else None
    with (
        serve(STREAM_WORKER, "apps.pushed:app", tmp=tmp_path, certificate=tls) as running,
        connect(running) as raw,
    ):
        raw.request("GET", "/large")
        body = raw.read_all()
    assert body.complete
    assert len(body.data) == 30_000_000


def test_write_within_the_iterable_keeps_the_order(running: Running) -> None:
    assert get(running, "/writes")[1].data == b"abcde"
