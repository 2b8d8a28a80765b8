"""What the metrics of one process say of streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead
from support.metrics import samples
from werkzeug.test import Client

from vento_wsgi import Context, create_app, create_router
from vento_wsgi.contrib.prometheus import StreamMetrics, child_exit
from vento_wsgi.middleware import StreamGuard
from vento_wsgi.streaming.iteration import MAX_PIECE


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
