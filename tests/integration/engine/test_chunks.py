"""When chunks are sent, on real servers. A source waits at a gate that the test holds."""

import socket
from concurrent.futures import ThreadPoolExecutor

from support.engine import EVENTS, MB, Server, asked, of_each_kind, on_stream_worker, slow
from support.gates import Gate
from support.servers import OPENING, Chunked, eventually, target

from vento_wsgi.streaming.pumps import MAX_BUFFER


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
