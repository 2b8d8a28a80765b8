"""Streams as Flask's responses, on real servers."""

from __future__ import annotations

import json

import brotli  # type: ignore[import-untyped]
import pytest
from apps import flask_extensions
from support.fixtures import served
from support.servers import Body, Running, connect, eventually, get
from support.sites import GEVENT, assert_parked, noted, reads, served_sites

server = served_sites(*GEVENT, "gunicorn-gthread")


under_gevent = pytest.mark.parametrize("server", GEVENT, indirect=True)
under_gevent_extended = pytest.mark.parametrize("extended", GEVENT, indirect=True)


# On servers.


def test_a_generator_has_the_context_of_its_request(server: Running) -> None:
    head, body = get(server, "/flask/context?say=here")
    assert body == Body(b"here /context /flask/\n" * 2, complete=True)
    assert head.headers["X-After"] == "True"
    assert head.headers["X-Own"] == "yes"
    assert head.headers["Content-Type"] == "text/plain"
    noted(server, "teardown /context")


@under_gevent
def test_a_client_that_leaves_ends_the_generator_in_its_context(server: Running) -> None:
    with connect(server) as raw:
        raw.request("GET", "/flask/waits")
        reads(raw, b"flask first\n")
    noted(server, "flask: GeneratorExit", "finally /waits")
    assert "Traceback" not in server.log()


def test_a_blueprint_has_events(server: Running) -> None:
    head, body = get(server, "/flask/live/events", "Last-Event-ID: 7")
    assert head.headers["X-Accel-Buffering"] == "no"
    assert body == Body(b':\nretry: 3000\ndata: {"last":"7"}\n\n', complete=True)


@under_gevent
def test_a_subscription_is_parked(server: Running) -> None:
    assert_parked(server, "/flask/live/news")
    noted(server, "flask news closed")


def test_a_file_has_ranges_and_validators(server: Running) -> None:
    head, body = get(server, "/flask/data")
    assert body.complete
    assert len(body.data) == 300_000
    assert head.headers["Content-Disposition"].startswith("attachment; filename=")
    part, some = get(server, "/flask/data", "Range: bytes=5-9")
    assert (part.status, some.data) == (206, body.data[5:10])
    assert get(server, "/flask/data", f"If-None-Match: {head.headers['ETag']}")[0].status == 304
    assert get(server, "/flask/files/none")[0].status == 404
    assert get(server, "/flask/data", method="HEAD")[0].headers["Content-Length"] == "300000"


# What after_request functions and extensions do to a body.


extended = served("apps.flask_extensions:app", *GEVENT, "gunicorn-gthread")


def notes(server: Running) -> list[str]:
    told: list[str] = json.loads(get(server, "/notes")[1].data)
    return told


def once(server: Running, note: str) -> None:
    eventually(lambda: note in notes(server), explain=lambda: str(notes(server)))
    assert notes(server).count(note) == 1


@pytest.mark.parametrize("operation", flask_extensions.OPERATIONS)
def test_whatever_is_done_to_a_native_generator_may_be_done_to_a_stream(
    extended: Running, operation: str
) -> None:
    head, body = get(extended, f"/native/{operation}")
    got, data = get(extended, f"/generator/{operation}")
    assert body.complete
    assert data == Body(body.data.replace(b"native", b"generator"), complete=True) or (
        data == Body(body.data.replace(b"NATIVE", b"GENERATOR"), complete=True)
    )
    for name in ("ETag", "Content-Length", "X-Data"):
        assert (name in got.headers) == (name in head.headers)
    once(extended, f"closed /generator/{operation}?")
    for kind in ("iterable", "sse", "text", "told"):
        head, body = get(extended, f"/{kind}/{operation}")
        assert (head.status, body.complete) == (200, True)
        text = body.data.decode().lower()
        assert ("text" if kind == "text" else "ü") in text
        if kind in ("iterable", "sse"):
            once(extended, f"closed /{kind}/{operation}?")
    assert "Traceback" not in extended.log()


def test_a_stream_whose_body_is_read_has_its_ending_told(extended: Running) -> None:
    def told() -> int:
        return notes(extended).count("ended exhausted")

    for kind in ("told", "text"):
        for operation in ("nothing", "get_data", "set_data", "freeze", "replace"):
            before = told()
            assert get(extended, f"/{kind}/{operation}?told")[0].status == 200
            eventually(lambda: told() > before)  # noqa: B023
            assert told() == before + 1


@pytest.mark.parametrize("kind", ["native", "generator", "iterable"])
def test_an_etag_that_was_made_of_a_stream_is_found_again(extended: Running, kind: str) -> None:
    path = f"/{kind}/conditional?again"
    head, body = get(extended, path)
    tag = head.headers["ETag"]
    assert int(head.headers["Content-Length"]) == len(body.data)
    again = get(extended, path, f"If-None-Match: {tag}")
    assert (again[0].status, again[1].data) == (304, b"")
    assert get(extended, path, method="HEAD")[0].headers["ETag"] == tag
    eventually(lambda: notes(extended).count(f"closed {path}") == 3)


def test_an_extension_compresses_a_stream(extended: Running) -> None:
    for operation in ("nothing", "get_data"):
        path = f"/generator/{operation}?compressed"
        head, body = get(extended, path, "Accept-Encoding: br")
        assert head.headers["Content-Encoding"] == "br"
        assert body.complete
        decoded = brotli.decompress(body.data).decode()
        assert decoded == "".join(f"/generator/{operation} {n} ü" for n in range(3))
        once(extended, f"closed {path}")
    assert "Traceback" not in extended.log()


@under_gevent_extended
def test_a_stream_that_an_extension_compresses_ends_when_its_client_leaves(
    extended: Running,
) -> None:
    with connect(extended) as raw:
        head = raw.request("GET", "/waits?br", "Accept-Encoding: br")
        assert head.headers["Content-Encoding"] == "br"
    once(extended, "left /waits?br")
    assert "Traceback" not in extended.log()


def test_an_extension_caches_a_stream_that_is_frozen(extended: Running) -> None:
    for kind in ("generator", "sse", "iterable"):
        path = f"/cached/{kind}"
        first = get(extended, path)[1]
        assert first.complete
        assert get(extended, path)[1] == first
        once(extended, f"made {path}?")
        once(extended, f"closed {path}?")
