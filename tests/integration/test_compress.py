"""Compressed streams: no chunk waits in an encoder. Read raw, by curl and by Chromium."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from support.codings import CODINGS, Decoder
from support.servers import EVENT_SOURCE, Raw, Running, connect, eventually, serve

from vento_wsgi.streaming.endings import FAILED

# On real servers: read by curl, by Chromium, and raw.

APP = """
import threading
from gevent import monkey
monkey.patch_all()
from vento_wsgi import Broker, Event, Response, create_app, create_router
from vento_wsgi.middleware import compress

router, goes = create_router(), {}
ended = []

@router.get("/")
def index(ctx):
    return ctx.html("")

@router.get("/events/<name>")
def events(ctx):
    go = goes[ctx.params["name"]] = threading.Semaphore(0)
    def made():
        for n in range(5):
            yield Event({"n": n, "text": "to be compressed"}, id=str(n))
            go.acquire()
    return ctx.sse(made(), on_end=lambda ending: ended.append(str(ending.reason)))

@router.get("/large/<name>")
def large(ctx):
    go = goes[ctx.params["name"]] = threading.Semaphore(0)
    def made():
        yield "compressed " * 20_000
        go.acquire()
        yield "."
    return ctx.stream(made(), "text/plain")

@router.get("/fails")
def fails(ctx):
    def made():
        yield "one"
        raise RuntimeError("in the middle")
    return ctx.sse(made())

@router.get("/endings")
def endings(ctx):
    return ctx.json(ended)

@router.post("/go/<name>")
def go(ctx):
    goes[ctx.params["name"]].release()
    return ctx.text("")

broker = Broker("memory://")

@router.get("/news")
def news(ctx):
    return ctx.sse(broker.subscribe("news"))

@router.post("/news")
def publish(ctx):
    broker.publish("news", "something new")
    return ctx.text("")

app = create_app()

@app.use
def forced(ctx, next):
    if "coding" in ctx.query:
        ctx.environ["HTTP_ACCEPT_ENCODING"] = ctx.query["coding"]
    return next()

app.use(compress())
app.use(router)
"""


@pytest.fixture(scope="module", params=["gunicorn-gevent", "gunicorn-StreamWorker"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("compress")
    (tmp / "coded_app.py").write_text(APP)
    with serve(request.param, "coded_app:app", cwd=tmp, tmp=tmp) as running:
        yield running


def post(running: Running, path: str) -> None:
    with connect(running) as raw:
        raw.send(f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode())
        assert raw.read_head().status == 200


@contextmanager
def opened(running: Running, path: str, coding: str = "gzip") -> Iterator[tuple[Raw, Decoder]]:
    with connect(running) as raw:
        head = raw.request("GET", path, EVENT_SOURCE, f"Accept-Encoding: {coding}")
        assert head.headers["Content-Encoding"] == coding
        yield raw, Decoder(coding)


def until(raw: Raw, decode: Callable[[bytes], bytes], text: bytes) -> bytes:
    """What is decoded up to and with `text`."""
    seen = b""
    while text not in seen:
        piece = raw.read_piece()
        assert piece is not None, seen
        seen += decode(piece.data)
    return seen


@pytest.mark.parametrize("coding", CODINGS)
def test_curl_has_each_event_before_the_next_is_made(running: Running, coding: str) -> None:
    url = f"http://{running.host}:{running.port}/events/curl-{coding}"
    command = ["curl", "-sSN", "--compressed", "-D-", "-H", f"Accept-Encoding: {coding}", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as curl:
        assert curl.stdout is not None
        seen = b""
        for n in range(5):
            while f"id: {n}\n".encode() not in seen or not seen.endswith(b"\n\n"):
                data = os.read(curl.stdout.fileno(), 65536)
                assert data, seen
                seen += data
            post(running, f"/go/curl-{coding}")
        seen += curl.stdout.read()
    assert curl.returncode == 0
    assert f"Content-Encoding: {coding}\r\n".encode() in seen
    assert seen.count(b"to be compressed") == 5


@pytest.mark.parametrize("coding", CODINGS)
def test_a_piece_of_many_bytes_is_there_to_its_last(running: Running, coding: str) -> None:
    with opened(running, f"/large/{coding}", coding) as (raw, decode):
        until(raw, decode, b"compressed " * 20_000)
        post(running, f"/go/{coding}")
        assert decode(raw.read_all().data) == b"."
        assert (raw.complete, decode.ended) == (True, True)


def test_a_failure_leaves_both_the_coding_and_the_body_open(running: Running) -> None:
    with opened(running, "/fails") as (raw, decode):
        body = raw.read_all()
        assert decode(body.data).endswith(FAILED)
        assert (raw.complete, decode.ended) == (False, False)


def test_a_client_that_leaves_is_noticed(running: Running) -> None:
    def endings() -> Any:
        with connect(running) as raw:
            raw.ask("GET", "/endings")
            raw.read_head()
            return json.loads(raw.read_all().data)

    before = endings().count("disconnected")
    with opened(running, "/events/leaver") as (raw, decode):
        until(raw, decode, b"id: 0")
    eventually(lambda: endings().count("disconnected") == before + 1)


def test_a_client_that_closed_its_side_goes_on_reading(running: Running) -> None:
    with opened(running, "/events/half") as (raw, decode):
        until(raw, decode, b"id: 0")
        raw.sock.shutdown(socket.SHUT_WR)
        until(raw, decode, b":\n")
        post(running, "/go/half")
        until(raw, decode, b"id: 1")


def test_a_subscription_is_coded_for_who_wants_it(running: Running) -> None:
    with opened(running, "/news") as (raw, decode), connect(running) as plain:
        assert "Content-Encoding" not in plain.request("GET", "/news").headers
        until(raw, decode, b"id: ")
        until(plain, lambda data: data, b"id: ")
        post(running, "/news")
        until(raw, decode, b"data: something new\n\n")
        until(plain, lambda data: data, b"data: something new\n\n")


def test_a_worker_that_stops_ends_its_coded_streams_well(tmp_path: Path) -> None:
    (tmp_path / "coded_app.py").write_text(APP)
    with (
        serve(
            "gunicorn-StreamWorker",
            "coded_app:app",
            cwd=tmp_path,
            tmp=tmp_path,
            env={"VENTO_DRAIN_WINDOW": "0.1"},
        ) as running,
        opened(running, "/events/a") as stream,
        opened(running, "/news") as news,
    ):
        until(*stream, b"id: 0")
        until(*news, b"id: ")
        running.process.terminate()
        for raw, decode in (stream, news):
            until(raw, decode, b"retry: ")
            decode(raw.read_all().data)
            assert (raw.complete, decode.ended) == (True, True)


PAGE = """async ([coding, name]) => {
    const seen = [];
    const source = new EventSource(`/events/${name}?coding=${coding}`);
    await new Promise((done, failed) => {
        source.onerror = () => failed("error");
        source.onmessage = async (event) => {
            seen.push(JSON.parse(event.data).n);
            if (seen.length === 5) done();
            else await fetch(`/go/${name}`, { method: "POST" });
        };
    });
    source.close();
    const response = await fetch(`/large/${name}?coding=${coding}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", told = false;
    for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        if (!told && text.length === 220000) {
            told = true;
            await fetch(`/go/${name}`, { method: "POST" });
        }
    }
    return [seen, response.headers.get("Content-Encoding"), text.length, text.slice(-2)];
}"""


def test_chromium_has_each_event_and_each_piece_before_the_next_is_made(
    running: Running, browser: Browser
) -> None:
    with browser.new_page() as page:
        for coding in CODINGS:
            page.goto(f"http://{running.host}:{running.port}/")
            found = page.evaluate(PAGE, [coding, f"chromium-{coding}"])
            assert found == [[0, 1, 2, 3, 4], coding, 220_001, " ."]
