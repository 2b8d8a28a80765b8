"""What the metrics of several workers say together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.metrics import Samples, samples
from support.servers import Raw, Running, connect, eventually, serve

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
