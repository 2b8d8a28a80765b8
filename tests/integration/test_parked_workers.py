"""Subscriptions on StreamWorkers with their own settings: logs, TLS, stops, a lost Redis."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.engine import Server
from support.logs import RedisServer
from support.servers import STREAM_WORKER, Chunked, eventually, is_reset, target
from support.subscribers import WINDOW, numbers_of, parked, publish, settled, started, subscribed
from support.tls import Certificate

CONFIG = """
def post_request(worker, req, environ, resp):
    worker.log.info("hook: %s?%s %s", req.path, req.query, resp.sent if resp else None)
"""


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Server]:
    """A StreamWorker that logs accesses and has a hook for each request."""
    (tmp_path / "conf.py").write_text(CONFIG)
    log = tmp_path / "access"
    options = (f"--access-logfile={log}", "--access-logformat=%(U)s?%(q)s %(s)s %(B)s")
    with started(STREAM_WORKER, tmp_path, *options, f"--config={tmp_path}/conf.py") as server:
        yield server


def test_gunicorn_logs_each_access_once_with_the_bytes_of_its_body(
    logged: Server, name: str, tmp_path: Path
) -> None:
    with subscribed(logged, target(f"/events/{name}", deadline=0.3, name=name)) as source:
        source.opened()
        publish(logged, name, count=3)
        source.response.rest()
    size = logged.ending(name)["bytes"]
    with subscribed(logged, f"/events/{name}", "Last-Event-ID: x") as source:
        source.response.head()
    asked = f"/events/{name}"

    def lines() -> list[str]:
        return [line for line in (tmp_path / "access").read_text().split("\n") if asked in line]

    eventually(lambda: len(lines()) == 2)
    assert lines()[0].endswith(f" 200 {size}")
    hooks = re.findall(rf"hook: {asked}.*", logged.running.log())
    eventually(lambda: len(re.findall(rf"hook: {asked}\?", logged.running.log())) == 2)
    assert hooks[0].endswith(str(size))


def test_a_client_that_stops_within_the_replay_is_told_of_once(
    logged: Server, name: str, tmp_path: Path
) -> None:
    ids = publish(logged, name, count=900, size=5000)
    query = {"name": name, "send_timeout": 0.5, "closes": f"{name}c", "sndbuf": 4096}
    path = target(f"/events/{name}", lastEventId=ids[0], **query)
    with subscribed(logged, path, buffer=4096) as source:
        assert logged.ending(name)["reason"] == "stalled"
        assert is_reset(source.raw)
    assert logged.notes(f"{name}c")["left"] == ["closed"]
    settled(logged)
    assert len(re.findall(rf"hook: /events/{name}\?", logged.running.log())) == 1
    access = (tmp_path / "access").read_text()
    assert len(re.findall(rf"/events/{name}\?", access)) == 1


def test_tls_is_streamed(certificate: Certificate, tmp_path: Path, name: str) -> None:
    with (
        started(STREAM_WORKER, tmp_path, certificate=certificate) as server,
        server.connect() as raw,
        Chunked(raw) as response,
    ):
        raw.ask("GET", f"/events/{name}")
        response.head()
        opening = response.next() or b""
        while b"\nid: " not in opening:
            opening += response.next() or b""
        publish(server, name)
        assert (response.next() or b"").endswith(b"data: 0\n\n")
        assert parked(server)["ParkedSubscriber"] == 0


# How a worker stops.


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_stops_asks_all_back_over_a_window(
    tmp_path: Path, name: str, how: signal.Signals
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    grace = "--graceful-timeout=20"
    with started(STREAM_WORKER, tmp_path, grace, URL=url) as server, ExitStack() as stack:
        old = server.get("/pid")
        sources = [
            stack.enter_context(subscribed(server, target(f"/events/{name}", closes=name)))
            for _ in range(60)
        ]
        marks = [source.opened() for source in sources]
        ids = publish(server, name, count=3)
        told = sources[-1].until("2")  # it is told after all others
        server.running.process.send_signal(how)
        retries = []
        for source in sources:
            *events, last = source.rest()
            if source is sources[-1]:
                events = [*told, *events]
            assert [event.id for event in events] == ids
            assert last.retry is not None
            assert last.id is None
            retries.append(last.retry)
            assert source.raw.sock.recv(1) == b""
        assert max(retries) <= 1000 + WINDOW * 1000
        assert len(set(retries)) > 10
        if how is signal.SIGTERM:
            assert server.running.process.wait(60) == 0
        else:
            eventually(lambda: server.get("/pid") != old)
            publish(server, name, start=3)
            for after, wanted in ((ids[1], [2, 3]), (marks[0].id, [0, 1, 2, 3])):
                with subscribed(server, f"/events/{name}", f"Last-Event-ID: {after}") as source:
                    source.response.head()
                    assert numbers_of(source.until("3")) == wanted
        assert "Traceback" not in server.running.log()


def test_a_worker_that_has_no_time_asks_all_back_at_once(tmp_path: Path, name: str) -> None:
    grace = "--graceful-timeout=5"
    with (
        started(STREAM_WORKER, tmp_path, grace, VENTO_DRAIN_WINDOW="60") as server,
        ExitStack() as stack,
    ):
        sources = [stack.enter_context(subscribed(server, f"/events/{name}")) for _ in range(60)]
        for source in sources:
            source.opened()
        server.running.process.terminate()
        retries = [event.retry for source in sources for event in source.rest()]
        assert len(retries) == 60
        assert max(retry or 0 for retry in retries) > WINDOW * 1000


# When the log fails.


def test_a_redis_that_goes_away_ends_nobody_and_refuses_newcomers(
    tmp_path: Path, name: str
) -> None:
    redis = RedisServer()
    redis.start()
    try:
        with (
            started(STREAM_WORKER, tmp_path, URL=redis.url) as server,
            subscribed(server, target(f"/events/{name}", heartbeat=0.3)) as source,
        ):
            source.opened()
            (given,) = publish(server, name)
            assert source.until("0")[0].id == given
            redis.kill()
            assert source.response.next() == b":\n"
            redis.start()
            publish(server, name, start=1)
            assert numbers_of(source.until("1")) == [1]
    finally:
        redis.stop()
