"""The example of a board, in two tabs of Chromium, served by four workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect
from support.servers import ROOT, Running, connect, serve

PATIENCE = 30_000  # milliseconds for what a busy machine may take long to do
WORKERS = 4


@dataclass
class Board:
    """The board as it is served. log: the broker's file."""

    running: Running
    env: dict[str, str]
    log: Path
    errors: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://{self.running.host}:{self.running.port}"

    def publish(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "examples.live_board.publish", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env},
            check=True,
        )

    def kill_workers(self) -> None:
        """End all workers that were there: none of them keeps the connection of a tab."""
        pid = self.running.pid
        for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)

    def tab(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(self.origin)
        state(page, "live")
        page.evaluate("window.loadedOnce = true")
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with served(tmp_path) as board:
        yield board


@contextmanager
def served(tmp: Path) -> Iterator[Board]:
    log = tmp / "log" / "events.db"
    env = {"VENTO_BROKER_URL": f"sqlite:///{log}", "LIVE_BOARD": str(tmp / "cards.db")}
    target, options = "examples.live_board.app:app", [f"--workers={WORKERS}"]
    with serve(
        "gunicorn-StreamWorker", target, cwd=ROOT, tmp=tmp, env=env, options=options
    ) as running:
        yield Board(running, env, log)


def state(page: Page, wanted: str) -> None:
    expect(page.locator("#state")).to_have_text(wanted, timeout=PATIENCE)


def received(page: Page, count: int) -> None:
    expect(page.locator("#received")).to_have_text(str(count), timeout=PATIENCE)


def has(page: Page, column: str, *texts: str) -> None:
    cards = page.locator(f".column[data-column={column}] .text")
    expect(cards).to_have_text(list(texts), timeout=PATIENCE)
    counted = page.locator(f".column[data-column={column}] .count")
    expect(counted).to_have_text(str(len(texts)), timeout=PATIENCE)


def add(page: Page, column: str, text: str) -> None:
    page.fill(f".column[data-column={column}] input", text)
    page.press(f".column[data-column={column}] input", "Enter")


def test_what_is_done_in_one_tab_is_seen_in_the_other(
    board: Board, context: BrowserContext
) -> None:
    one, other = board.tab(context), board.tab(context)
    add(one, "ideas", "Water the plants")
    add(other, "ideas", "<b>Order</b> & more")
    for page in (one, other):
        has(page, "ideas", "<b>Order</b> & more", "Water the plants")
    other.click('.card:has-text("plants") .on')
    one.drag_and_drop('.card:has-text("Order")', ".column[data-column=done]")
    for page in (one, other):
        has(page, "ideas")
        has(page, "doing", "Water the plants")
        has(page, "done", "<b>Order</b> & more")
        expect(page.locator("#latest")).to_have_text("“<b>Order</b> & more” moved to Done")
    one.click('.card:has-text("plants") .off')
    for page in (one, other):
        has(page, "doing")
        received(page, 5)
    late = board.tab(context)
    has(late, "done", "<b>Order</b> & more")
    received(late, 0)
    assert board.errors == []
    assert [url for url in board.requested if not url.startswith((board.origin, "data:"))] == []


def test_a_script_outside_changes_the_board(board: Board, context: BrowserContext) -> None:
    page = board.tab(context)
    board.publish("Hello from a script", "--column", "doing")
    has(page, "doing", "Hello from a script")
    feeding = subprocess.Popen(
        [sys.executable, "-m", "examples.live_board.publish", "--every", "0.01"],
        cwd=ROOT,
        env={**os.environ, **board.env},
        stdout=subprocess.DEVNULL,
    )
    try:
        expect(page.locator("#received")).to_have_text(re.compile(r"\d\d+"), timeout=PATIENCE)
    finally:
        feeding.kill()
        feeding.wait()
    assert board.errors == []


def test_tabs_whose_workers_are_killed_come_back_without_a_gap(
    board: Board, context: BrowserContext
) -> None:
    pages = [board.tab(context), board.tab(context)]
    expected: list[str] = []
    for number in range(6):
        if number in (2, 4):
            board.kill_workers()
        board.publish(f"Card {number}")
        expected.insert(0, f"Card {number}")
    for page in pages:
        has(page, "ideas", *expected)
        received(page, 6)
        state(page, "live")
        assert page.evaluate("window.loadedOnce") is True


def test_a_tab_shows_that_it_has_lost_its_connection(board: Board, context: BrowserContext) -> None:
    page = board.tab(context)
    context.set_offline(True)
    board.kill_workers()
    state(page, "reconnecting")
    add(page, "ideas", "Not now")
    expect(page.locator("#notice")).to_contain_text("This was not done", timeout=PATIENCE)
    board.publish("Meanwhile")
    has(page, "ideas")
    context.set_offline(False)
    state(page, "live")
    has(page, "ideas", "Meanwhile")
    received(page, 1)


def test_a_tab_that_was_away_for_too_long_loads_the_board_anew(
    board: Board, context: BrowserContext
) -> None:
    page = board.tab(context)
    board.publish("Stays")
    board.publish("Goes")
    has(page, "ideas", "Goes", "Stays")
    context.set_offline(True)
    board.kill_workers()
    state(page, "reconnecting")
    with connect(board.running, 30) as raw:
        assert raw.request("DELETE", "/cards/2", "Connection: close").status == 200
    for path in board.log.parent.glob(f"{board.log.name}*"):
        if path.is_file():
            path.unlink()  # as though all of it had been dropped
    board.publish("Comes")
    context.set_offline(False)
    has(page, "ideas", "Comes", "Stays")
    state(page, "live")
    add(page, "ideas", "Goes on")
    has(page, "ideas", "Goes on", "Comes", "Stays")
    assert page.evaluate("window.loadedOnce") is True


def test_what_is_no_card_is_refused(board: Board) -> None:
    for method, path, body, status in (
        ("POST", "/cards", b'{"text": " ", "column": "ideas"}', 400),
        ("POST", "/cards", b'{"text": "x", "column": "moon"}', 400),
        ("POST", "/cards", b"[]", 400),
        ("PUT", "/cards/7", b'{"column": "done"}', 404),
        ("DELETE", "/cards/7", b"", 404),
    ):
        with connect(board.running) as raw:
            head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.send(head.encode() + body)
            assert raw.read_head().status == status, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_board_fits_a_phone_in_light_and_in_dark(
    board: Board, context: BrowserContext, scheme: str
) -> None:
    page = board.tab(context)
    board.publish("A long card " + "x" * 100)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844})
    has(page, "ideas", "A long card " + "x" * 100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, ground = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    assert (lightness(ink) > lightness(ground)) is (scheme == "dark")


def lightness(colour: str) -> int:
    """Of a computed colour, which is `rgb(r, g, b)`."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_the_example_says_how_it_is_run() -> None:
    text = (ROOT / "examples" / "live_board" / "app.py").read_text()
    assert f"vento-wsgi run --workers {WORKERS} examples.live_board.app:app" in text
    assert "python -m examples.live_board.publish" in text
