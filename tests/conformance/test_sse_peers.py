"""Our event streams read by decoders of others, and theirs by ours.

What we encode must mean to each of them what it means to us: httpx-sse, eventsource-parser
under node, and Chromium's EventSource, which says as well how a stream that nobody would make
is to be read. The events are those of apps/sse_corpus.py.
"""

import base64
import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from apps.sse_corpus import as_read, events, garbage
from httpx_sse import EventSource, ServerSentEvent, connect_sse
from playwright.sync_api import Browser, Page
from support.missing import missing
from support.servers import ROOT, serve

from vento_wsgi import Event, decode, sse

CORPUS = list(events())


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tmp = tmp_path_factory.mktemp("corpus")
    with serve("gunicorn-gevent", "apps.sse_corpus:app", tmp=tmp) as running:
        yield f"http://{running.host}:{running.port}"


def encoded() -> bytes:
    return b"".join(sse(CORPUS))


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


CUT = pytest.mark.parametrize("size", [3, 1000, 10**9], ids=["3 bytes", "1000 bytes", "whole"])


class Message(NamedTuple):
    """What a client sees of an event."""

    type: str
    data: str
    last_event_id: str


def dispatched(events: Iterable[Event]) -> list[Message]:
    """What a client sees of `events`, by section 9.2.6 of the standard."""
    messages, last = [], ""
    for event in events:
        last = last if event.id is None else event.id
        if event.data is not None:
            messages.append(Message(event.event or "message", event.data, last))
    return messages


def test_the_corpus_is_read_by_our_own_decoder() -> None:
    assert list(decode([encoded()])) == list(as_read(CORPUS))


# httpx-sse


def seen_by_httpx(events: Iterable[Event]) -> list[tuple[str, str, str, int | None]]:
    """What httpx-sse gives: a block without data is an event as well, if anything is known."""
    seen, last, retry = [], "", None
    for event in events:
        last = last if event.id is None else event.id
        retry = retry if event.retry is None else event.retry
        if event.is_aside:
            continue
        if event.data is not None or event.event or last or retry is not None:
            seen.append((event.event or "message", event.data or "", last, retry))
        retry = None
    return seen


def fields(received: Iterable[ServerSentEvent]) -> list[tuple[str, str, str, int | None]]:
    return [(event.event, event.data, event.id, event.retry) for event in received]


@CUT
def test_httpx_sse_reads_what_we_encode(size: int) -> None:
    kind = {"Content-Type": "text/event-stream"}
    with (
        httpx.Client(
            transport=httpx.MockTransport(
                lambda _: httpx.Response(200, headers=kind, content=iter(pieces(encoded(), size)))
            )
        ) as client,
        client.stream("GET", "http://peer/") as response,
    ):
        assert fields(EventSource(response).iter_sse()) == seen_by_httpx(CORPUS)


def test_httpx_sse_reads_what_we_serve(origin: str) -> None:
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        connect_sse(client, "GET", f"{origin}/events") as source,
    ):
        assert fields(source.iter_sse()) == seen_by_httpx([Event(retry=3000), *CORPUS])


# eventsource-parser

PARSE = """
import { readFileSync } from "node:fs";
import { createParser } from "eventsource-parser";
const seen = [];
const parser = createParser({
  onComment: (comment) => seen.push({ comment }),
  onRetry: (retry) => seen.push({ retry }),
  onEvent: (event) => seen.push(event),
  onError: (error) => { throw error; },
});
const decoder = new TextDecoder();
for (const chunk of JSON.parse(readFileSync(0, "utf8"))) {
  parser.feed(decoder.decode(Buffer.from(chunk, "base64"), { stream: true }));
}
process.stdout.write(JSON.stringify(seen));
"""


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder from which node finds eventsource-parser, installed there once a checkout."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        missing("there is no node, or no npm, on the path")
    home = ROOT / ".venv" / "node"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "node_modules" / "eventsource-parser").is_dir():
            command = (npm, "install", "--no-audit", "--no-fund", "--prefix", home)
            done = subprocess.run(
                [*command, "eventsource-parser@3"], capture_output=True, text=True
            )
            if done.returncode != 0:
                missing(f"eventsource-parser was not installed:\n{done.stderr}")
    return home


def seen_by_node(events: Iterable[Event]) -> list[dict[str, Any]]:
    """What eventsource-parser gives: one thing for each comment line, retry and event."""
    seen: list[dict[str, Any]] = []
    for event in events:
        if event.retry is not None:
            seen.append({"retry": event.retry})
        if event.comment is not None:
            seen += [{"comment": line} for line in event.comment.split("\n")]
        if event.data is not None:
            known = {"event": event.event, "id": event.id}
            given = {name: value for name, value in known.items() if value is not None}
            seen.append({"data": event.data, **given})
    return seen


@CUT
def test_eventsource_parser_reads_what_we_encode(node: Path, size: int) -> None:
    chunks = [base64.b64encode(piece).decode() for piece in pieces(encoded(), size)]
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", PARSE],
        cwd=node,
        input=json.dumps(chunks),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == seen_by_node(CORPUS)


# Chromium

LISTEN = """
([url, types]) => new Promise((resolve, reject) => {
  const seen = [];
  const source = new EventSource(url);
  const listen = (event) => {
    if (event instanceof MessageEvent) {
      seen.push([event.type, event.data, event.lastEventId]);
      if (event.type !== "end") return;
      source.close();
      resolve(seen);
    } else if (event.type === "error") {
      source.close();
      reject(new Error(`the stream broke off after ${seen.length} events`));
    }
  };
  for (const type of types) source.addEventListener(type, listen);
})
"""


@pytest.fixture(scope="module")
def page(browser: Browser, origin: str) -> Iterator[Page]:
    with browser.new_page() as page:
        page.goto(origin)
        yield page


def seen_by_chromium(page: Page, url: str, expected: list[Message]) -> list[Message]:
    """All that EventSource dispatches up to the event of type "end"."""
    types = {"error", *(message.type for message in expected)}
    return [Message(*seen) for seen in page.evaluate(LISTEN, [url, sorted(types)])]


def test_chromium_reads_what_we_serve(page: Page, origin: str) -> None:
    expected = dispatched(CORPUS)
    assert seen_by_chromium(page, f"{origin}/events", expected) == expected


def test_we_read_what_nobody_would_make_as_chromium_does(page: Page, origin: str) -> None:
    stream = garbage()
    ours = dispatched(decode([stream]))
    assert len(ours) > 200
    assert seen_by_chromium(page, f"{origin}/garbage", ours) == ours
    assert dispatched(decode(pieces(stream, 1))) == ours
