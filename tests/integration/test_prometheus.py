"""What the metrics say of streams, in one process and in several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from support.servers import Raw, Running, connect, eventually, serve
from werkzeug.test import Client

from vento_wsgi import Context, create_app, create_router
from vento_wsgi.contrib.prometheus import StreamMetrics, child_exit
from vento_wsgi.middleware import StreamGuard
from vento_wsgi.streaming.stream import MAX_PIECE

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Values by name and labels: ("vento_streams_open", "GET /")."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sorted(sample.labels.items(), key=lambda label: label[0] != "route")
            key = sample.name.removeprefix("vento_"), *(value for _, value in labels)
            found[key] = sample.value
    return found


@pytest.fixture
def metrics() -> Iterator[StreamMetrics]:
    metrics = StreamMetrics(CollectorRegistry())
    yield metrics
    metrics.close()


def legacy(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([environ["PATH_INFO"].encode()])


@pytest.fixture
def client(metrics: StreamMetrics) -> Client:
    router = create_router()
    router.get("/metrics", metrics)

    @router.get("/users/<int:id>")
    def user(ctx: Context) -> Any:
        return ctx.stream(["one", "three"], "text/plain")

    @router.get("/large")
    def large(ctx: Context) -> Any:
        return ctx.stream([b"x" * (MAX_PIECE + 1000)])

    @router.get("/fails")
    def fails(ctx: Context) -> Any:
        def failing() -> Iterator[str]:
            yield "one"
            raise RuntimeError

        return ctx.sse(failing())

    app = create_app()
    app.use(router)
    app.mount("/old", StreamGuard(legacy))
    app.mount("/wsgi", metrics.wsgi_app)
    return Client(app)


def test_streams_are_counted_by_the_pattern_of_their_route(client: Client) -> None:
    for number in range(3):
        client.get(f"/users/{number}").get_data()
    client.head("/users/7")
    client.get("/old/some/path").get_data()
    client.get("/old/another").get_data()
    found = samples(client.get("/metrics").text)
    route = "GET /users/<int:id>"
    assert found["streams_opened_total", route] == 3
    assert found["streams_open", route] == 0
    assert found["streams_ended_total", route, "exhausted"] == 3
    assert found["stream_bytes_total", route] == 24
    assert found["stream_pieces_total", route] == 6
    assert found["stream_duration_seconds_count", route] == 3
    assert found["stream_first_chunk_seconds_bucket", route, "0.5"] == 3
    assert found["stream_backlog_bytes_bucket", route, "0.0"] == 3
    assert found["streams_opened_total", "other"] == 2
    labels = {key[1] for key in found if key[0] == "streams_opened_total"}
    assert labels == {route, "other"}
    assert samples(client.get("/wsgi/").text) == found


def test_an_open_stream_is_open_and_a_failed_one_has_failed(client: Client) -> None:
    route = "GET /users/<int:id>"
    response = client.get("/users/1", buffered=False)
    assert samples(client.get("/metrics").text)["streams_open", route] == 1
    response.close()
    with pytest.raises(OSError, match="failed"):
        client.get("/fails").get_data()
    found = samples(client.get("/metrics").text)
    assert found["streams_open", route] == 0
    assert found["streams_ended_total", route, "disconnected"] == 1
    assert ("stream_first_chunk_seconds_count", route) not in found
    assert found["streams_ended_total", "GET /fails", "failed"] == 1


def test_what_the_client_has_not_taken_is_its_backlog(client: Client) -> None:
    response = client.get("/large", buffered=False)
    assert len(next(filter(None, response.iter_encoded()))) == MAX_PIECE
    response.close()
    assert samples(client.get("/metrics").text)["stream_backlog_bytes_sum", "GET /large"] == 1000


def test_the_scraper_has_the_format_it_asks_for(client: Client) -> None:
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        response = client.get("/metrics", headers={"Accept": accept})
        assert response.content_type.startswith(accept.partition(";")[0])


def test_an_observer_that_fails_harms_nobody(
    client: Client, metrics: StreamMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(route: str) -> None:
        raise RuntimeError(f"no metric for {route}")

    metrics.opened = broken  # type: ignore[method-assign]
    assert client.get("/users/1").data == b"onethree"
    assert "no metric for GET /users/<int:id>" in caplog.text


APP = """
import os, time
from vento_wsgi import Broker, create_app, create_router
from vento_wsgi.contrib.prometheus import StreamMetrics

router, broker, metrics = create_router(), Broker("memory://"), StreamMetrics()

@router.get("/")
def index(ctx):
    return ctx.text("")

@router.get("/short")
def short(ctx):
    return ctx.stream(iter([b"12345"]))

@router.get("/fails")
def fails(ctx):
    def made():
        yield b"one"
        raise RuntimeError
    return ctx.stream(made())

def silent():
    yield b"ready"
    time.sleep(3600)

@router.get("/deadline")
def deadline(ctx):
    return ctx.stream(silent(), deadline=0.05)

@router.get("/waits/<name>")
def waits(ctx):
    return ctx.stream(silent(), headers={"Pid": str(os.getpid())})

@router.get("/news")
def news(ctx):
    return ctx.sse(broker.subscribe("news"))

@router.post("/news")
def publish(ctx):
    for n in range(400):
        broker.publish("news", "x" * 50_000)
    broker.publish("news", "the last")
    return ctx.text("")

router.get("/metrics", metrics)
app = create_app()
app.use(router)
"""


def scrape(running: Running) -> Samples:
    with connect(running) as raw:
        assert raw.request("GET", "/metrics").status == 200
        return samples(raw.read_all().data.decode())


def read(running: Running, path: str) -> None:
    with connect(running) as raw:
        raw.request("GET", path)
        raw.read_all()


@pytest.mark.parametrize("server", ["gunicorn-StreamWorker", "gunicorn-gevent"])
def test_the_sums_of_all_workers_are_right_also_when_one_is_killed(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "measured_app.py").write_text(APP)
    (tmp_path / "conf.py").write_text("from vento_wsgi.contrib.prometheus import child_exit\n")
    directory = tmp_path / "metrics"
    directory.mkdir()
    with (
        serve(
            server,
            "measured_app:app",
            cwd=tmp_path,
            tmp=tmp_path,
            env={"PROMETHEUS_MULTIPROC_DIR": str(directory)},
            options=["--workers=2", "--config", str(tmp_path / "conf.py")],
        ) as running,
        ExitStack() as stack,
    ):
        for path in ("/short", "/fails", "/deadline"):
            for _ in range(4):
                read(running, path)

        def wait(name: str) -> tuple[int, Raw]:
            raw = stack.enter_context(connect(running))
            head = raw.request("GET", f"/waits/{name}")
            assert raw.read_piece() is not None
            return int(head.headers["Pid"]), raw

        waiting = [wait(str(number)) for number in range(4)]
        until = time.monotonic() + 60
        while len({pid for pid, _ in waiting}) < 2 and time.monotonic() < until:
            waiting.append(wait("more"))
        workers = {pid for pid, _ in waiting}
        assert len(workers) == 2
        for _ in range(2):
            news = stack.enter_context(connect(running))
            news.request("GET", "/news")
            assert news.read_piece() is not None
        waits, opened = "GET /waits/<name>", len(waiting)

        def shows(**wanted: float) -> None:
            def right() -> bool:
                found = scrape(running)
                return all(found.get(tuple(k.split("|")), 0) == v for k, v in wanted.items())

            eventually(right, explain=lambda: f"{wanted} in {scrape(running)}")

        shows(
            **{
                "streams_opened_total|GET /short": 4,
                "streams_ended_total|GET /short|exhausted": 4,
                "stream_bytes_total|GET /short": 20,
                "streams_ended_total|GET /fails|failed": 4,
                "streams_ended_total|GET /deadline|deadline": 4,
                "stream_duration_seconds_count|GET /deadline": 4,
                "stream_first_chunk_seconds_count|GET /deadline": 4,
                f"streams_open|{waits}": opened,
                "streams_open|GET /news": 2,
                "streams_open|GET /short": 0,
            }
        )
        waiting.pop()[1].close()
        news.close()
        shows(
            **{
                f"streams_open|{waits}": opened - 1,
                f"streams_ended_total|{waits}|disconnected": 1,
                "streams_open|GET /news": 1,
                "streams_ended_total|GET /news|disconnected": 1,
            }
        )
        killed = waiting[0][0]
        left = sum(pid != killed for pid, _ in waiting)
        os.kill(killed, signal.SIGKILL)
        shows(
            **{
                f"streams_open|{waits}": left,
                f"streams_opened_total|{waits}": opened,
                f"streams_ended_total|{waits}|disconnected": 1,
                "streams_ended_total|GET /fails|failed": 4,
            }
        )
        # the recipe is no reason for a warning, in the worker that came instead neither
        eventually(lambda: running.log().count("Booting worker") == 3, explain=running.log)
        for _ in range(20):
            scrape(running)
        assert "WARNING" not in running.log()


def test_the_hook_removes_what_prometheus_client_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "ours [1]", tmp_path / "theirs"]
    modes = ("all", "liveall", "livemax", "livemin", "livemostrecent", "livesum", "max", "sum")
    for folder in folders:
        folder.mkdir()
        names = [f"gauge_{mode}_{pid}.db" for mode in modes for pid in (12, 123)]
        for name in (*names, "counter_12.db", "histogram_12.db"):
            (folder / name).touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folders[0]))
    for _ in range(2):
        child_exit(None, SimpleNamespace(pid=12))
    mark_process_dead(12, str(folders[1]))  # type: ignore[no-untyped-call]
    ours, theirs = ([path.name for path in sorted(folder.iterdir())] for folder in folders)
    assert ours == theirs
    assert len(ours) == 13


def test_the_hook_is_imported_without_prometheus_client() -> None:
    code = """
import sys
from vento_wsgi.contrib.prometheus import child_exit
class Worker:
    pid = 1
child_exit(None, Worker)
print("prometheus_client" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "False\n", done.stderr


def test_a_parked_subscriber_that_does_not_read_has_a_backlog(tmp_path: Path) -> None:
    (tmp_path / "measured_app.py").write_text(APP)
    route = "GET /news"
    with serve("gunicorn-StreamWorker", "measured_app:app", cwd=tmp_path, tmp=tmp_path) as running:
        with connect(running) as slow, connect(running) as quick, connect(running) as raw:
            for subscriber in (slow, quick):
                subscriber.request("GET", "/news")
                assert subscriber.read_piece() is not None
            raw.send(b"POST /news HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
            assert raw.read_head().status == 200
            tail = b""
            for piece in iter(quick.read_piece, None):
                tail = (tail + piece.data)[-200:]
                if b"data: the last" in tail:
                    break  # and so has the slow one been given it
        eventually(lambda: scrape(running)["streams_open", route] == 0)
        found = scrape(running)
        assert found["stream_backlog_bytes_sum", route] > 1024 * 1024
        assert found["streams_ended_total", route, "disconnected"] == 2
