"""The demo page in headless Chromium, served by gunicorn with gevent workers.

The browser shows whether anything on the way holds chunks back. No test expects a time in seconds:
arrivals are compared with each other and with the times at which the server says it sent.
"""

import hashlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect
from support.servers import ROOT, eventually, serve

PATIENCE = 30_000  # milliseconds for what a busy machine may take long to do
MIB = 1024 * 1024


@dataclass
class Demo:
    """The page in a browser, and all that went wrong on it."""

    page: Page
    origin: str
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda request: self.failed.append(path_of(request)))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()

    def expect_text(self, name: str, text: str) -> None:
        expect(self.page.locator(f"#{name}")).to_have_text(text, timeout=PATIENCE)

    def record(self, name: str, expression: str) -> None:
        """Keep the time and a JavaScript expression of `element`, now and at each change to it."""
        self.page.evaluate(
            """([name, expression]) => {
                const element = document.getElementById(name);
                const value = new Function("element", `return ${expression}`);
                const keep = () => window.recorded.push([performance.now(), value(element)]);
                window.recorded = [];
                keep();
                new MutationObserver(keep).observe(
                    element, { attributes: true, childList: true, subtree: true });
            }""",
            [name, expression],
        )

    def recorded(self) -> list[tuple[float, Any]]:
        return [(at, value) for at, value in self.page.evaluate("window.recorded")]

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(read(f"{self.origin}/stats"))
        return stats


def path_of(request: Request) -> str:
    return f"{urlsplit(request.url).path} {request.failure}"


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        body: bytes = response.read()
        return body


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("demo")) as origin:
        yield origin


@contextmanager
def served(tmp: Path) -> Iterator[str]:
    with serve("gunicorn-gevent", "examples.demo.app:app", cwd=ROOT, tmp=tmp) as running:
        yield f"http://{running.host}:{running.port}"


@contextmanager
def visit(browser: Browser, origin: str) -> Iterator[Demo]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        demo = Demo(context.new_page(), origin)
        demo.watch()
        demo.page.goto(origin)
        demo.expect_text("events-state", "open")
        yield demo


@pytest.fixture
def demo(browser: Browser, origin: str) -> Iterator[Demo]:
    """The page, freshly loaded; it must not complain while the test uses it."""
    with visit(browser, origin) as demo:
        yield demo
        assert demo.errors == []


def test_the_page_loads_without_a_complaint_and_asks_nobody_else(demo: Demo) -> None:
    demo.expect_text("stats-events", "1")
    assert demo.errors == demo.failed == []
    elsewhere = [url for url in demo.requested if not url.startswith((demo.origin, "data:"))]
    assert elsewhere == []


def test_events_arrive_one_by_one_as_they_are_sent(demo: Demo) -> None:
    demo.page.wait_for_selector('#events-list li[data-count="6"]', timeout=PATIENCE)
    rows = demo.page.locator("#events-list li").evaluate_all(
        "items => items.map(({ dataset: d }) => [d.count, d.time, d.arrival].map(Number))"
    )
    counts, sent, arrived = zip(*reversed(rows), strict=True)
    assert list(counts[:6]) == [1, 2, 3, 4, 5, 6]

    origin = demo.page.evaluate("performance.timeOrigin")
    assert (origin + arrived[0]) / 1000 < sent[5], "the first is not kept until the last was sent"


def test_tokens_appear_word_by_word_and_done_ends_them(demo: Demo) -> None:
    demo.record(
        "chat-log",
        "(answer => answer && [answer.textContent.length, answer.dataset.state])"
        "(element.querySelector('.theirs'))",
    )
    demo.page.fill("#chat-input", "Tell me about the wind")
    demo.page.press("#chat-input", "Enter")
    demo.expect_text("chat-state", "done")

    answer = demo.page.locator("#chat-log .theirs")
    text = answer.inner_text()
    assert text.startswith("Vento is Italian for wind, ánemos in Greek: ἄνεμος.")
    assert text.endswith("the first breath.")
    (asked, _), *states = demo.recorded()
    whole = len(answer.text_content() or "")
    assert states[-1][1] == [whole, "done"]
    lengths = [(at, shown[0]) for at, shown in states if shown and shown[1] == "answering"]
    assert lengths == sorted(lengths)
    assert len({length for _, length in lengths}) > len(text.split()) / 2
    half_time = (asked + states[-1][0]) / 2
    assert whole / 5 < max(length for at, length in lengths if at < half_time) < whole * 4 / 5


def test_an_answer_that_ends_without_done_counts_as_cut_off(demo: Demo) -> None:
    demo.page.route(
        "**/ai/chat",
        lambda route: route.fulfill(
            content_type="text/event-stream", body='data: {"text": "Half an "}\n\n'
        ),
    )
    demo.page.fill("#chat-input", "Anything")
    demo.page.click("#chat-send")
    demo.expect_text("chat-state", "failed")
    assert demo.text("chat-log").endswith("Half an\nThe answer ended before it was complete.")


def test_the_page_reads_frames_that_are_cut_anywhere(demo: Demo) -> None:
    stream = (
        ": a comment\r\n"
        "data: one\r\ndata:  two\r\n\r\n"
        "event: named\rid: 7\rdata:x\r\r"
        "data\n\n"
        "event: nothing to say\n\n"
        "unknown: field\ndata: ἄ\n\n"
        "data: never ended\n"
    )
    frames = demo.page.evaluate(
        """async (stream) => {
            const { EventStreamParser } = await import("/assets/event-stream.js");
            const parse = (pieces) => {
                const events = [];
                const parser = new EventStreamParser((event) => events.push(event));
                for (const piece of pieces) parser.feed(piece);
                return events;
            };
            const cuts = [...stream].map((_, at) => [stream.slice(0, at), stream.slice(at)]);
            return [[...stream], ...cuts].map(parse);
        }""",
        stream,
    )
    expected = [
        {"type": "message", "data": "one\n two", "id": ""},
        {"type": "named", "data": "x", "id": "7"},
        {"type": "message", "data": "", "id": "7"},
        {"type": "message", "data": "ἄ", "id": "7"},
    ]
    assert all(events == expected for events in frames)


def test_the_download_shows_its_progress_and_the_right_sha256(demo: Demo) -> None:
    demo.record("download-progress", "element.value")
    demo.page.select_option("#download-size", "8")
    demo.page.click("#download-start")
    demo.expect_text("download-state", "complete")

    body = read(f"{demo.origin}/download?mib=8")
    assert len(body) == 8 * MIB
    assert demo.text("download-sha256") == hashlib.sha256(body).hexdigest()
    assert demo.text("download-expected") == demo.text("download-sha256")
    assert demo.text("download-bytes") == "8.0 of 8 MiB"
    assert demo.text("download-percent") == "100 %"

    received = [value for _, value in demo.recorded() if value]
    assert received == sorted(received)
    assert len(set(received)) > 1, "before the end as well"
    assert demo.failed == []


def test_cancelling_the_download_stops_its_generator(demo: Demo) -> None:
    stopped = demo.stats()["stopped"]["download"]
    demo.page.select_option("#download-size", "256")
    demo.page.click("#download-start")
    demo.expect_text("stats-download", "1")
    demo.page.wait_for_selector("#download-percent:text-matches('^[1-9]')", timeout=PATIENCE)
    demo.page.click("#download-cancel")

    demo.expect_text("download-state", "cancelled")
    demo.expect_text("stats-download", "0")
    assert demo.stats()["running"]["download"] == 0
    assert demo.stats()["stopped"]["download"] == stopped + 1
    assert demo.failed == ["/download net::ERR_ABORTED"]


def test_stopping_an_answer_stops_its_generator(demo: Demo) -> None:
    stopped = demo.stats()["stopped"]["chat"]
    demo.page.click("text=What happens when I cancel?")
    demo.expect_text("stats-chat", "1")
    demo.page.wait_for_selector(".theirs:has-text('Press Stop')", timeout=PATIENCE)
    demo.page.click("#chat-stop")

    demo.expect_text("chat-state", "stopped")
    demo.expect_text("stats-chat", "0")
    assert demo.stats()["running"]["chat"] == 0
    assert demo.stats()["stopped"]["chat"] == stopped + 1
    assert demo.failed == ["/ai/chat net::ERR_ABORTED"]


def test_closing_the_feed_stops_its_generator_and_connecting_starts_another(demo: Demo) -> None:
    demo.expect_text("stats-events", "1")
    demo.page.click("#events-toggle")
    demo.expect_text("events-state", "closed")
    demo.expect_text("stats-events", "0")
    demo.page.click("#events-toggle")
    demo.expect_text("events-state", "open")
    demo.expect_text("stats-events", "1")


def test_a_lost_feed_reconnects_and_goes_on_after_its_last_event(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path) as origin, visit(browser, origin) as demo:
        demo.page.wait_for_selector('#events-list li[data-count="2"]', timeout=PATIENCE)
        worker = demo.stats()["pid"]
        os.kill(worker, signal.SIGKILL)
        demo.expect_text("events-state", "reconnecting")
        demo.expect_text("events-state", "open")
        demo.page.wait_for_selector('#events-list li[data-count="4"]', timeout=PATIENCE)

        counts = demo.page.locator("#events-list li .count").all_inner_texts()
        assert counts[-4:] == ["#4", "#3", "#2", "#1"]
        eventually(lambda: demo.stats()["pid"] != worker)


def test_the_page_shows_the_code_behind_a_stream(demo: Demo) -> None:
    demo.page.click("#chat summary")
    expect(demo.page.locator("#chat pre")).to_contain_text('@router.post("/ai/chat")')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_in_dark(demo: Demo, scheme: str) -> None:
    demo.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    demo.page.set_viewport_size({"width": 360, "height": 740})
    assert demo.page.evaluate("document.documentElement.scrollWidth") <= 360
    ink, ground = (
        demo.page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    assert (lightness(ink) > lightness(ground)) is (scheme == "dark")


def lightness(colour: str) -> int:
    """Of a computed colour, which is `rgb(r, g, b)`."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
