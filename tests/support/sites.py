"""What test_contrib_flask.py, test_contrib_django.py and test_mounting.py have in common."""

from __future__ import annotations

import json
from typing import Any

from support.fixtures import served
from support.servers import OPENING, STOCK, STREAM_WORKER, Raw, Running, connect, eventually, get

GEVENT = (STREAM_WORKER, STOCK)
SITES = "apps.legacy_sites:app"
QUICK_DRAIN = {"VENTO_DRAIN_WINDOW": "0.1"}


def served_sites(*servers: str) -> Any:
    """A fixture: the sites of apps/legacy_sites.py on each of `servers`, once a module."""
    return served(SITES, *servers, env=QUICK_DRAIN)


def tell(server: Running, query: str = "") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(get(server, f"/tell?{query}")[1].data)
    return told


def reads(raw: Raw, wanted: bytes) -> bytes:
    """Read until `wanted` has come."""
    got = b""
    while wanted not in got:
        piece = raw.read_piece()
        assert piece is not None, got
        got += piece.data
    return got


def noted(server: Running, *expected: str) -> None:
    """Wait until all of this is noted."""
    eventually(
        lambda: set(expected) <= set(tell(server)["notes"]), explain=lambda: str(tell(server))
    )


def assert_parked(server: Running, path: str, count: int = 5) -> None:
    """A subscription at `path` costs no greenlet, and gets what is published."""
    raws = [connect(server) for _ in range(count)]
    try:
        before = tell(server, "greenlets")["greenlets"]
        for raw in raws:
            head = raw.request("GET", path)
            assert head.headers["Content-Type"].startswith("text/event-stream")
            reads(raw, OPENING)
        after = tell(server, "greenlets")["greenlets"]
        if server.server == STREAM_WORKER:
            assert after <= before, "a greenlet for each"
        tell(server, "publish=one")
        first = [reads(raw, b"data: one\n\n") for raw in raws]
        tell(server, "publish=two")
        for raw in raws:
            reads(raw, b"data: two\n\n")
    finally:
        for raw in raws:
            raw.close()
    last = first[0].rpartition(b"id: ")[2].partition(b"\n")[0].decode()
    with connect(server) as raw:
        raw.request("GET", path, f"Last-Event-ID: {last}")
        assert b"data: one\n\n" not in reads(raw, b"data: two\n\n")
