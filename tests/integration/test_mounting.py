"""A vento application below a Flask or Django site, and such sites below a vento application."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.servers import (
    EVENT_SOURCE,
    OPENING,
    STREAM_WORKER,
    Body,
    Running,
    connect,
    eventually,
    get,
    serve,
)
from support.sites import GEVENT, QUICK_DRAIN, SITES, assert_parked, noted, reads, served_sites

UNDER = ("/flask/vento", "/django/vento")
MOUNTED = ("/mounting/flask", "/mounting/django")

under_a_site = pytest.mark.parametrize("prefix", UNDER)
mounted = pytest.mark.parametrize("prefix", MOUNTED)
everywhere = pytest.mark.parametrize("prefix", [*UNDER, *MOUNTED])


def name(prefix: str) -> str:
    return prefix.rpartition("/")[2]


server = served_sites(*GEVENT)


@under_a_site
def test_our_application_sees_where_it_is(server: Running, prefix: str) -> None:
    seen = json.loads(get(server, f"{prefix}/paths?a=%20b")[1].data)
    url = f"http://{server.host}{prefix}/paths?a=%20b"
    assert seen == [prefix, "/paths", "/paths", url]
    head, _ = get(server, f"{prefix}/redirect")
    assert (head.status, head.headers["Location"]) == (302, f"{prefix}/")
    head, _ = get(server, f"{prefix}/no/such")
    assert (head.status, head.headers["Content-Type"]) == (404, "application/problem+json")


@mounted
def test_a_mounted_site_sees_where_it_is(server: Running, prefix: str) -> None:
    url = get(server, f"{prefix}/")[1].data.decode()
    assert url == f"http://{server.host}{prefix}/live/events"
    head, _ = get(server, f"{prefix}/redirect")
    assert (head.status, head.headers["Location"]) == (302, f"{prefix}/")
    assert get(server, f"{prefix}/no/such")[0].status == 404


def test_a_prefix_is_whole_and_not_a_part_of_a_name(server: Running) -> None:
    head, _ = get(server, "/mounting/flasks")
    assert (head.status, head.headers["Content-Type"]) == (404, "application/problem+json")


@everywhere
def test_a_client_that_returns_says_where_it_left_off(server: Running, prefix: str) -> None:
    body = get(server, f"{prefix}/live/events", "Last-Event-ID: 41")[1]
    assert body == Body(OPENING + b'data: {"last":"41"}\n\n', complete=True)
    body = get(server, f"{prefix}/live/events?lastEventId=42")[1]
    assert body == Body(OPENING + b'data: {"last":"42"}\n\n', complete=True)


@everywhere
def test_a_client_that_leaves_is_noticed(server: Running, prefix: str) -> None:
    with connect(server) as raw:
        raw.request("GET", f"{prefix}/waits")
        reads(raw, b" first\n")
    noted(server, f"{name(prefix)}: GeneratorExit")


@under_a_site
def test_a_failure_breaks_off(server: Running, prefix: str) -> None:
    assert get(server, f"{prefix}/fails")[1] == Body(b"first\n", complete=False)
    eventually(lambda: "GET /fails failed in mid-stream" in server.log())


@everywhere
def test_a_subscription_is_parked(server: Running, prefix: str) -> None:
    assert_parked(server, f"{prefix}/live/news", count=3)


def test_a_worker_that_stops_ends_all_event_streams(tmp_path: Path) -> None:
    with (
        serve(STREAM_WORKER, SITES, tmp=tmp_path, env=QUICK_DRAIN) as running,
        ExitStack() as stack,
    ):
        raws = []
        for prefix in (*UNDER, *MOUNTED, "/flask", "/django"):
            for path in ("live/waiting-events", "live/news"):
                raw = stack.enter_context(connect(running))
                raw.request("GET", f"{prefix}/{path}", EVENT_SOURCE)
                reads(raw, b"data: " if "waiting" in path else b"\n\n")
                raws.append(raw)
        running.process.terminate()
        for raw in raws:
            body = raw.read_all()
            assert body.complete
            assert re.search(rb"retry: \d+\n$", body.data), body.data
