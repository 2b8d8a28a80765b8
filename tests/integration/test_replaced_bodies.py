"""Middleware that puts another body into a response: that body is sent, and both are closed."""

import gzip
import re

import pytest
from apps.replaced_bodies import BODIES, NEW, OLD, REPLACE
from support.fixtures import served
from support.servers import STREAM_WORKER, Running, connect, eventually

running = served("apps.replaced_bodies:app", STREAM_WORKER, "waitress")
flask_site = served("apps.replaced_bodies:site", STREAM_WORKER)
coding = served("apps.replaced_bodies:coded", STREAM_WORKER)


def text_of(running: Running, target: str) -> str:
    with connect(running) as raw:
        raw.request("GET", target)
        return raw.read_all().data.decode()


def unopened(events: bytes) -> bytes:
    """An event stream without the comment and the retry that open it."""
    return re.sub(rb"\A:\n(retry: \d+\n)?", b"", events)


def closings(running: Running) -> list[str]:
    """What was closed since this was last asked, the response being the last."""
    told: list[str] = []

    def over() -> bool:
        told.extend(filter(None, text_of(running, "/").split(",")))
        return "response" in told

    eventually(over)
    return told


@pytest.mark.parametrize("way", [way.__name__ for way in REPLACE])
@pytest.mark.parametrize("body", BODIES)
def test_the_new_body_is_sent_whole_and_nothing_that_was_said_of_the_old_one(
    running: Running, body: str, way: str
) -> None:
    with connect(running) as raw:
        head = raw.request("GET", f"/{body}/{way}", "Range: bytes=0-9", 'If-None-Match: "x"')
        sent = raw.read_all()
    assert head.status == 200
    # what replaces events is an event stream as well, and is opened as one
    assert (unopened(sent.data) if body in ("events", "subscription") else sent.data) == NEW
    assert sent.complete
    assert head.headers.get("Content-Length") in (None, str(len(NEW)))
    described = {"ETag", "Last-Modified", "Accept-Ranges", "Content-Range"}
    assert not described & set(head.headers.keys())
    source = ["source"] if body in ("memory", "stream", "options", "events") else []
    assert closings(running) == [*source, "response"]


@pytest.mark.parametrize("way", ["wrapped", "wrapped as it is"])
def test_a_wrapper_of_the_body_has_all_of_it(running: Running, way: str) -> None:
    way = way.replace(" ", "%20")
    assert text_of(running, f"/file/{way}") == OLD.decode().upper()
    assert closings(running) == ["response"]
    assert text_of(running, f"/stream/{way}") == "OLD 1\nOLD 2\n"
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("way", ["collected", "frozen"])
def test_a_body_that_is_collected_is_sent_with_its_length(running: Running, way: str) -> None:
    for body, data in {"file": OLD, "stream": b"old 1\nold 2\n"}.items():
        with connect(running) as raw:
            head = raw.request("GET", f"/{body}/{way}")
            assert raw.read_all().data == data
        assert head.headers["Content-Length"] == str(len(data))
        assert closings(running)[-1] == "response"


def test_a_file_that_becomes_an_error_page_has_no_validators(running: Running) -> None:
    with connect(running) as raw:
        head = raw.request("GET", "/file/not%20found")
        assert head.status == 404
        assert raw.read_all().data == OLD
    assert closings(running) == ["response"]
    assert head.headers["Content-Length"] == str(len(OLD))
    assert not {"ETag", "Last-Modified", "Accept-Ranges"} & set(head.headers.keys())


def test_what_is_no_event_stream_any_more_gets_nothing_of_one(running: Running) -> None:
    with connect(running) as raw:
        raw.request("GET", "/events/json")
        assert raw.read_all().data == NEW
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_nobody_replaced_is_what_it_was(running: Running, method: str) -> None:
    with connect(running) as raw:
        head = raw.request(method, "/file/as%20it%20was", "Range: bytes=0-9")
        assert head.status == (206 if method == "GET" else 200)
        assert raw.read_all().data == (OLD[:10] if method == "GET" else b"")
        assert "ETag" in head.headers
    assert closings(running) == ["response"]


def test_head_of_a_replaced_body_has_its_length_and_closes_both(running: Running) -> None:
    with connect(running) as raw:
        head = raw.request("HEAD", "/stream/set_data")
    assert head.headers["Content-Length"] == str(len(NEW))
    assert closings(running) == ["source", "response"]


@pytest.mark.parametrize("way", [way.__name__ for way in REPLACE])
@pytest.mark.parametrize("body", [body for body in BODIES if body != "subscription"])
def test_compress_codes_the_new_body(coding: Running, body: str, way: str) -> None:
    with connect(coding) as raw:
        head = raw.request("GET", f"/{body}/{way}", "Accept-Encoding: gzip")
        sent = raw.read_all()
    assert sent.complete
    assert head.headers["Content-Encoding"] == "gzip"
    assert unopened(gzip.decompress(sent.data)) == NEW
    closings(coding)


@pytest.mark.parametrize("name", ["file", "memory", "events", "stream"])
def test_flask_compress_codes_a_stream(flask_site: Running, name: str) -> None:
    with connect(flask_site) as raw:
        raw.ask("GET", f"/{name}", "Connection: close")
        raw.read_head()
        plain = raw.read_all().data
    with connect(flask_site) as raw:
        head = raw.request("GET", f"/{name}", "Accept-Encoding: gzip", "Range: bytes=0-9")
        coded = raw.read_all()
        assert head.status == 200
        assert coded.complete
        assert head.headers["Content-Encoding"] == "gzip"
        assert not {"Content-Length", "Accept-Ranges"} & set(head.headers.keys())
        # nothing of ours may be put between the bytes of a coding, not even before events
        assert gzip.decompress(coded.data) == unopened(plain)
        assert raw.request("GET", "/").status == 200


@pytest.mark.parametrize("name", ["file", "memory", "events", "stream"])
def test_flask_compress_codes_what_was_put_there(flask_site: Running, name: str) -> None:
    with connect(flask_site) as raw:
        head = raw.request("GET", f"/{name}?data", "Accept-Encoding: gzip")
        coded = raw.read_all()
        assert coded.complete
        assert head.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(coded.data) == NEW
        assert raw.request("GET", "/").status == 200
