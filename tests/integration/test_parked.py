"""Subscriptions on real servers: parked sockets of StreamWorker, streams of stock gevent.

The same is promised on both, except for what a waiting subscriber costs.
"""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
from support.engine import Server, on_stream_worker
from support.servers import STOCK, STREAM_WORKER, eventually, is_reset, reset_on_close, target
from support.subscribers import Source, numbers_of, parked, publish, settled, started, subscribed

from vento_wsgi import Event


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """Enough of them for the clients here and for the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module", params=[STREAM_WORKER, STOCK])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with started(request.param, tmp_path_factory.mktemp("parked")) as server:
        yield server
        assert "Traceback" not in server.running.log().replace("told to fail", "")


# What a subscriber is sent.


def test_a_subscription_opens_at_once_with_a_comment_and_where_it_stands(
    server: Server, name: str
) -> None:
    with subscribed(server, f"/events/{name}") as source:
        mark = source.opened()
        assert b"text/event-stream" in source.head
        assert b"X-Accel-Buffering: no" in source.head
        assert publish(server, name)[0] != mark.id


def test_each_event_leaves_at_once_in_a_chunk_of_its_own(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.opened()
        for n in range(5):
            (given,) = publish(server, name, start=n)
            assert source.next() == [Event(str(n), id=given)]


@on_stream_worker
def test_an_event_is_one_send_and_one_packet(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.raw.read_head()
        source.raw.read_piece()
        (given,) = publish(server, name, size=50)
        block = f"id: {given}\ndata: {'.' * 49}0\n\n".encode()
        source.raw.sock.settimeout(30)
        assert source.raw.sock.recv(1 << 16).endswith(b"%X\r\n%b\r\n" % (len(block), block))


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_client_that_comes_back_has_what_it_missed(server: Server, name: str, how: str) -> None:
    ids = publish(server, name, count=300)
    path = f"/events/{name}"
    fields = [f"Last-Event-ID: {ids[9]}"] if how == "header" else []
    with subscribed(
        server, path if fields else target(path, lastEventId=ids[9]), *fields
    ) as source:
        source.response.head()
        events = source.until("299")
        assert [event.id for event in events] == ids[10:]
        publish(server, name, start=300)
        assert source.next()[0].data == "300"


def test_a_client_that_was_away_for_too_long_is_told(server: Server, name: str) -> None:
    (last,) = publish(server, name)
    with subscribed(server, f"/events/{name}", "Last-Event-ID: unknown") as source:
        source.response.head()
        publish(server, name, start=1)
        gap, event = source.until("1")
        assert (gap.event, gap.id, event.data) == ("gap", last, "1")


@pytest.mark.parametrize("id", ["x" * 1025, "%01", "a%0Ab", "%7F"])
@pytest.mark.parametrize("how", ["header", "query"])
def test_an_id_that_nobody_can_have_sent_is_a_bad_request(
    server: Server, name: str, how: str, id: str
) -> None:
    if how == "header" and "%" in id:
        return  # no server lets it pass
    with server.connect() as raw:
        if how == "header":
            assert raw.request("GET", f"/events/{name}", f"Last-Event-ID: {id}").status == 400
        else:
            assert raw.request("GET", f"/events/{name}?lastEventId={id}").status == 400


def test_topics_and_prefixes(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name},{name}b") as source:
        source.opened()
        publish(server, f"{name}c", start=1)
        publish(server, f"{name}b", start=2)
        publish(server, name, start=3)
        assert numbers_of(source.until("3")) == [2, 3]


# What it costs.


@on_stream_worker
def test_a_parked_subscriber_has_no_greenlet_and_nothing_of_its_request(
    server: Server, name: str
) -> None:
    settled(server)
    before = parked(server)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(subscribed(server, f"/events/{name}")).opened()
        now = settled(server, 50)
        del now["sinks"], before["sinks"]
        assert abs(now.pop("greenlet") - before.pop("greenlet")) < 5
        assert now == {**before, "ParkedSubscriber": before["ParkedSubscriber"] + 50}
    settled(server)
    eventually(lambda: parked(server)["ParkedSubscriber"] == before["ParkedSubscriber"])


def test_thousands_that_come_and_vanish_leave_nothing(server: Server, name: str) -> None:
    number = 2000 if server.name == STREAM_WORKER else 400
    come_and_vanish(server, name, 5, 0)  # what is made once
    settled(server)
    before = server.census()
    for crowd in range(0, number, 400):
        come_and_vanish(server, name, 400, crowd)
    settled(server)

    def left() -> Any:
        now = server.census()
        if server.name == STOCK:  # greenlets of sources, kept
            now["greenlet"] = now["a watcher: callback"] = 0
        return now - before

    eventually(lambda: not left(), explain=lambda: str(left()))


def come_and_vanish(server: Server, topic: str, number: int, crowd: int) -> None:
    request = f"GET /events/{topic} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with ExitStack() as stack:
        socks = []
        for _ in range(number):
            sock = socket.create_connection((server.running.host, server.running.port), 10)
            socks.append(stack.enter_context(sock))
            sock.sendall(request)
        for sock in socks:
            got = b""
            while b"\nid: " not in got:
                data = sock.recv(1 << 16)
                assert data, got
                got += data
            if crowd % 800:
                reset_on_close(sock)


# How it ends.


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_is_noticed(server: Server, name: str, reset: bool) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        publish(server, name)
        source.next()
        if reset:
            reset_on_close(source.raw.sock)
    ending = server.ending(name)
    assert ending["reason"] == "disconnected"
    assert ending["chunks"] >= 2
    settled(server)


def test_a_client_that_closes_its_side_alone_is_still_there(server: Server, name: str) -> None:
    with subscribed(server, f"/events/{name}") as source:
        source.opened()
        source.raw.sock.shutdown(socket.SHUT_WR)
        assert source.response.next() == b":\n"
        publish(server, name)
        assert source.next()[0].data == "0"
    publish(server, name, count=2)  # which tells: it was asked already
    settled(server)


def test_more_that_a_client_sends_is_not_its_departure(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        source.raw.ask("GET", "/hello")
        eventually(lambda: server.census()["ticker's suspects"] == 1)
        for n in range(3):
            publish(server, name, start=n)
            assert source.next()[0].data == str(n)
    assert server.ending(name)["reason"] == "disconnected"


def test_the_end_arrives_though_the_client_has_sent_more(server: Server, name: str) -> None:
    path = target(f"/events/{name}", name=name, deadline=0.5)
    with subscribed(server, path) as source:
        source.opened()
        source.raw.ask("GET", "/hello")
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "deadline"


def test_it_ends_cleanly_at_its_deadline(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name, deadline=0.3)) as source:
        source.opened()
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "deadline"
    settled(server)


def test_a_closed_broker_ends_it_cleanly(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", name=name)) as source:
        source.opened()
        publish(server, name)
        source.next()
        server.get("/close")
        assert source.response.next() is None
    assert server.ending(name)["reason"] == "exhausted"


def stuck(server: Server, name: str, **query: object) -> Any:
    """A subscriber that does not read, with little room in the kernel."""
    path = target(f"/events/{name}", name=name, sndbuf=4096, **query)
    return subscribed(server, path, buffer=4096)


def test_a_client_that_does_not_read_is_reset(server: Server, name: str) -> None:
    with stuck(server, name, send_timeout=0.5) as source:
        settled(server, 1)
        publish(server, name, count=20, size=10_000)
        ending = server.ending(name)
        assert ending["reason"] == "stalled"
        assert is_reset(source.raw)
    settled(server)


@on_stream_worker
def test_a_client_that_is_too_slow_is_sent_away_and_loses_nothing(
    server: Server, name: str
) -> None:
    with stuck(server, name, backlog=10) as source:
        settled(server, 1)
        publish(server, name, count=100, size=5000)
        assert server.ending(name)["reason"] == "stalled"
        assert is_reset(source.raw)
    settled(server)


def test_drop_oldest_keeps_a_slow_client_and_tells_it(server: Server, name: str) -> None:
    with stuck(server, name, backlog=10, slow="drop_oldest") as source:
        settled(server, 1)
        publish(server, name, count=200, size=5000)
        source.opened()
        events = source.until("199")
        gaps = [event.event == "gap" for event in events]
        numbers = [None if gap else numbers_of([event])[0] for gap, event in zip(gaps, events)]
        assert any(gaps)
        assert gaps.count(True) == 1 or server.name == STOCK
        for before, after in pairwise(numbers):  # with what is missing in its place
            assert before is None or after is None or after == before + 1
        assert numbers[-10:] == list(range(190, 200))
        ids = [int((event.id or "").rpartition("-")[2]) for event in events]
        assert ids == sorted(ids)
        publish(server, name, start=200)
        assert numbers_of(source.next()) == [200]


def test_latest_keeps_the_newest_of_each_name(server: Server, name: str) -> None:
    with stuck(server, name, backlog=2, slow="latest") as source:
        settled(server, 1)
        for n in range(0, 100, 2):
            publish(server, name, start=n, size=5000, event="a")
            publish(server, name, start=n + 1, size=5000, event="b")
        source.opened()
        events = source.until("99")
        assert [event.event for event in events[-2:]] == ["a", "b"]
        assert numbers_of(events[-2:]) == [98, 99]
        assert len(events) < 100
        assert "gap" not in {event.event for event in events}


@on_stream_worker
def test_a_slow_client_that_reads_again_has_every_event(server: Server, name: str) -> None:
    with stuck(server, name) as source:
        settled(server, 1)
        ids = publish(server, name, count=300, size=3000)
        source.opened()
        assert [event.id for event in source.until("299")] == ids
        (given,) = publish(server, name)
        assert [event.id for event in source.next()] == [given]


@on_stream_worker
def test_clients_that_are_stuck_delay_no_other(server: Server, name: str) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            path = target(f"/events/{name}", sndbuf=4096, slow="latest", backlog=100)
            stack.enter_context(subscribed(server, path, buffer=4096))
        sources = [stack.enter_context(subscribed(server, f"/events/{name}")) for _ in range(450)]
        for source in sources:
            source.opened()
        settled(server, 500)
        ids = publish(server, name, count=50, size=1000)
        for source in sources:
            assert [event.id for event in source.until("49")] == ids
        assert parked(server)["sinks"] == 500
    settled(server)


# Who is told.


def test_on_end_is_told_once_and_may_wait_and_fail(server: Server, name: str) -> None:
    path = target(f"/events/{name}", name=name, says=f"{name}s", fails=1, deadline=0.3)
    with subscribed(server, f"/events/{name}s") as other:
        other.opened()
        with subscribed(server, path) as source:
            source.opened()
            publish(server, name)
            size = sum(len(event.encode()) for event in source.next())
            assert source.response.next() is None
        assert other.next()[0].data == "left"
    ending = server.ending(name)
    assert ending["chunks"] == 2
    assert size < ending["bytes"] < size + 50
    eventually(lambda: f"on_end of {name}" in server.running.log())
    server.running.log_path.write_text("")  # of tracebacks, and this one is meant


def test_what_is_to_run_at_the_close_runs_once(server: Server, name: str) -> None:
    for how in ("leaves", "deadline", "head"):
        query: dict[str, object] = {"closes": f"{name}{how}"}
        if how == "deadline":
            query["deadline"] = 0.3
        method = "HEAD" if how == "head" else "GET"
        with subscribed(server, target(f"/events/{name}", **query), method=method) as source:
            if how == "head":
                source.raw.read_head()
            else:
                source.opened()
            if how == "deadline":
                source.response.rest()
        eventually(lambda: server.notes(f"{name}{how}")["left"] == ["closed"])  # noqa: B023
    settled(server)
    assert server.notes(f"{name}leaves")["left"] == ["closed"]


def test_a_place_among_the_streams_is_free_again(server: Server, name: str) -> None:
    path = f"/limited/events/{name}"
    for _ in range(2):

        def is_free() -> bool:
            with server.connect() as raw:
                return raw.request("GET", path, "Connection: close").status == 200

        eventually(is_free)
        eventually(lambda: parked(server)["sinks"] == 0)
        with ExitStack() as stack:
            opened: list[Source] = []

            def enters() -> bool:
                source = stack.enter_context(subscribed(server, path))
                head = source.raw.read_head()
                opened.append(source)  # noqa: B023
                return head.status == 200

            eventually(enters)
            assert not is_free()


# Silence.


def test_silence_is_broken_by_comments(server: Server, name: str) -> None:
    with subscribed(server, target(f"/events/{name}", heartbeat=0.3)) as source:
        source.opened()
        publish(server, f"{name}other")
        for _ in range(2):
            assert source.response.next() == b":\n"


def test_a_heartbeat_of_ones_own(server: Server, name: str) -> None:
    path = target(f"/events/{name}", heartbeat=0.3, beat=":beat%0A%0A")
    with subscribed(server, path) as source:
        source.opened()
        for _ in range(2):
            beat = source.response.next()
            assert beat is not None
            assert beat.startswith(b":beat\n\n")


# What is not parked.


@on_stream_worker
@pytest.mark.parametrize("how", ["HTTP/1.0", "length", "wrapped"])
def test_what_cannot_be_parked_is_streamed(server: Server, name: str, how: str) -> None:
    settled(server)
    before = parked(server)["ParkedSubscriber"]
    version = "1.0" if how == "HTTP/1.0" else "1.1"
    query: dict[str, object] = {"length": 10_000} if how == "length" else {how[:7]: 1}
    with server.connect() as raw:
        path = target(f"/events/{name}", **query)
        raw.send(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        raw.read_head()
        got = b""
        while b"id: " not in got:
            piece = raw.read_piece()
            assert piece is not None
            got += piece.data
        settled(server, 1)
        assert parked(server)["ParkedSubscriber"] == before
        publish(server, name, size=50)
        piece = raw.read_piece()
        assert piece is not None
        assert piece.data.endswith(b".0\n\n")
    publish(server, name, count=2)  # a body of a known length has no room to ask the client
    settled(server)


@on_stream_worker
def test_head_subscribes_to_nothing(server: Server, name: str) -> None:
    with server.connect() as raw:
        head = raw.request("HEAD", f"/events/{name}")
        assert head.status == 200
        assert head.headers["Content-Type"].startswith("text/event-stream")
        assert raw.request("GET", "/hello").status == 200, "the connection goes on"
    settled(server)
