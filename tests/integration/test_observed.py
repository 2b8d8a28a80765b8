"""Streams below Sentry and OpenTelemetry: a departure is silent, a failure is reported once.

Their middleware gives the application a start_response of its own, and iterates the body by its
own means; below or above a StreamGuard.
"""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from support.fixtures import served
from support.servers import Running, connect, eventually, reset_on_close

SERVERS = ("gunicorn-StreamWorker", "gunicorn-gevent", "gevent-pywsgi")

UNGUARDED = ("sentry", "traced")
GUARDED = ("sentry-guard", "guard-sentry", "traced-guard", "guard-traced")
PATHS = [
    *((order, f"{app}") for order in UNGUARDED for app in ("ours", "flask?ours", "django?ours")),
    *((order, app) for order in GUARDED for app in ("ours", "plain", "flask", "django")),
    *((order, app) for order in GUARDED[:2] for app in ("flask?ours", "django?ours")),
]
of_each_path = pytest.mark.parametrize(("order", "app"), PATHS)


server = served("apps.observed:app", *SERVERS)


class Told:
    """What was reported since this object was made."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._before = {name: len(told) for name, told in self._ask().items()}
        self._log = len(server.log())

    def _ask(self) -> dict[str, list[str]]:
        with connect(self._server) as raw:
            raw.request("GET", "/tell", "Connection: close")
            told: dict[str, list[str]] = json.loads(raw.read_all().data)
        return told

    def __call__(self) -> dict[str, list[str]]:
        return {name: told[self._before[name] :] for name, told in self._ask().items()}

    def log(self) -> str:
        return self._server.log()[self._log :]


def target(order: str, app: str, name: str) -> str:
    app, mark, query = app.partition("?")
    return f"/{order}/{app}/{name}{mark}{query}"


@of_each_path
def test_departures_are_noticed_and_reported_nowhere(server: Running, order: str, app: str) -> None:
    told = Told(server)
    with ExitStack() as stack:
        for name in ("waits", "events", "waits"):
            raw = stack.enter_context(connect(server))
            raw.request("GET", target(order, app, name))
            got = b""
            while b"first" not in got:
                piece = raw.read_piece()
                assert piece is not None
                got += piece.data
    eventually(lambda: told()["notes"] == ["GeneratorExit"] * 3, explain=lambda: str(told()))
    assert told()["events"] == []
    assert "ERROR" not in told()["spans"]
    assert "Traceback" not in told.log()


@pytest.mark.parametrize("order", [*UNGUARDED, *GUARDED])
def test_a_departure_before_the_head_is_reported_nowhere(server: Running, order: str) -> None:
    told = Told(server)
    with connect(server) as raw:
        raw.ask("GET", target(order, "ours", "late"))
        eventually(lambda: told()["notes"] == ["called"])
        reset_on_close(raw.sock)
    with connect(server) as raw:
        assert raw.request("GET", target(order, "ours", "left")).status == 200
    eventually(lambda: told()["notes"] == ["called", "disconnected"], explain=lambda: str(told()))
    eventually(lambda: len(told()["spans"]) > 0 or "traced" not in order)
    assert told()["events"] == []
    assert "ERROR" not in told()["spans"]
    assert "Traceback" not in told.log()


@of_each_path
def test_a_failure_in_mid_stream_is_reported_once(server: Running, order: str, app: str) -> None:
    told = Told(server)
    for name in ("fails", "failing-events"):
        with connect(server) as raw:
            raw.request("GET", target(order, app, name))
            body = raw.read_all()
        assert not body.complete
        assert b"first" in body.data
    assert told()["events"] == ["RuntimeError"] * 2
    assert told.log().count("RuntimeError: broken") == 2, told.log()


@of_each_path
def test_a_failure_at_the_close_is_reported_once(server: Running, order: str, app: str) -> None:
    told = Told(server)
    with connect(server) as raw:
        raw.request("GET", target(order, app, "failing-at-close"))
        assert (piece := raw.read_piece()) is not None
        assert b"first" in piece.data
    eventually(lambda: "RuntimeError: broken" in told.log(), explain=told.log)
    [event] = told()["events"]
    assert event.endswith("RuntimeError")
    assert told.log().count("RuntimeError: broken") == 1, told.log()


@pytest.mark.parametrize("app", ["plain", "flask", "django"])
@pytest.mark.parametrize("order", ["sentry-guard", "guard-sentry"])
def test_a_failure_of_what_is_left_as_it_is_is_reported_once(
    server: Running, order: str, app: str
) -> None:
    told = Told(server)
    with connect(server) as raw:
        assert raw.request("GET", target(order, app, "sized")).status == 200
        assert not raw.read_all().complete
    assert told()["events"] == ["RuntimeError"]


# gevent.pywsgi prints a traceback where others log: there nobody but Sentry can report it
@pytest.mark.parametrize(
    ("order", "app"), [(order, app) for order, app in PATHS if app != "plain" or "sentry" in order]
)
def test_a_failure_before_the_head_is_reported_once(server: Running, order: str, app: str) -> None:
    told = Told(server)
    with connect(server) as raw:
        assert raw.request("GET", target(order, app, "raises")).status == 500
    assert told()["events"] == ["RuntimeError"]
