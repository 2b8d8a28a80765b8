"""StreamGuard without a server: WSGI's rules, its options, and what the test client tells."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from support.servers import (
    OPENING,
)
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client as WerkzeugClient

from vento_wsgi import StreamAborted
from vento_wsgi.middleware import StreamGuard
from vento_wsgi.testing import Client


def events(_environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return iter([b"data: 1\n\n", b"data: 2\n\n"])


def listed(_environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"one"]


@pytest.mark.parametrize("app", [events, listed])
@pytest.mark.parametrize("check", [validator, LintMiddleware])
def test_validators_on_both_sides_find_nothing(app: Any, check: Any) -> None:
    with WerkzeugClient(check(StreamGuard(check(app)))).get("/") as response:
        assert response.status_code == 200
        assert response.data in (b"one", OPENING + b"data: 1\n\ndata: 2\n\n")


@pytest.mark.parametrize("app", [events, listed])
def test_the_validator_finds_nothing_in_a_head(app: Any) -> None:
    def bodiless(environ: Any, start_response: Any) -> Iterable[bytes]:
        app(environ, start_response)
        return []

    with WerkzeugClient(validator(StreamGuard(validator(bodiless)))).head("/") as response:
        assert (response.status_code, response.data) == (200, b"")


def test_the_test_client_tells_how_a_guarded_stream_ended() -> None:
    with Client(StreamGuard(events)).stream("GET", "/") as response:
        assert [event.data for event in response.events()] == ["1", "2"]
    assert response.ending is not None
    assert response.ending.reason == "exhausted"


def test_without_gevent_a_deadline_is_noticed_at_the_next_chunk_and_in_the_same_thread() -> None:
    seen: set[int] = set()

    def endless(_environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        while True:
            seen.add(threading.get_ident())
            yield b"a"
            time.sleep(0.01)

    with (
        pytest.raises(StreamAborted, match="deadline"),
        Client(StreamGuard(endless, deadline=0.1, heartbeat=(b".", 0.1))).stream(
            "GET", "/"
        ) as sent,
    ):
        for _ in sent.chunks():
            pass
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heartbeat": -1}, "heartbeat is a number of seconds, not -1"),
        ({"heartbeat": ("text", 1)}, "a heartbeat sends bytes, not 'text'"),
        ({"deadline": "1"}, "deadline is a number of seconds, not '1'"),
        ({"flush": "never"}, 'flush is "idle" or "each", not \'never\''),
        ({"send_timeout": True}, "send_timeout is a number of seconds, not True"),
    ],
)
def test_an_option_that_is_none_is_refused(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        StreamGuard(events, **options)


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(TypeError, match="StreamGuard takes a WSGI application, not 'app'"):
        StreamGuard("app")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="deadlin"):
        StreamGuard(events, deadlin=3)  # type: ignore[call-arg]
