"""cors, as a browser sees it: a page of one origin, an application of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from support.polyfills import polyfills
from support.servers import serve


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page whose `api` is the address of the application, where it has a cookie."""
    with between(tmp_path_factory.mktemp("cors")) as (home, api), browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{api}/login")
        page.goto(f"{home}/page")
        page.evaluate("address => { window.api = address }", api)
        yield page


@contextmanager
def between(tmp: Path) -> Iterator[tuple[str, str]]:
    target = "apps.cors_app:app"
    with serve("gunicorn-StreamWorker", target, tmp=tmp) as first:
        home = f"http://{first.host}:{first.port}"
        env = {"ALLOWED": home}
        with serve("gunicorn-StreamWorker", target, tmp=tmp, env=env) as second:
            yield home, f"http://{second.host}:{second.port}"


def fetched(page: Page, path: str, options: dict[str, Any] | None = None) -> Any:
    """What the page sees: status, text and a header; or that the browser kept it."""
    return page.evaluate(
        """async ([path, options]) => {
            try {
                const response = await fetch(api + path, options);
                return [response.status, await response.text(), response.headers.get("x-seen")];
            } catch (error) { return String(error) }
        }""",
        [path, options or {}],
    )


KEPT = "TypeError: Failed to fetch"


def test_a_page_reads_an_event_stream_with_its_cookie(page: Page) -> None:
    seen = page.evaluate(
        """() => new Promise((resolve, reject) => {
            const source = new EventSource(api + "/events", { withCredentials: true });
            source.onmessage = ({ data }) => { source.close(); resolve(data) };
            source.onerror = () => { source.close(); reject("not readable") };
        })"""
    )
    assert seen == "ada"


@polyfills
def test_a_page_reads_an_event_stream_by_a_polyfill(page: Page, headers: dict[str, str]) -> None:
    options = {"headers": headers, "credentials": "include"}
    status, text, _ = fetched(page, "/events", options)
    assert (status, "data: ada" in text) == (200, True)


def test_a_page_sends_what_a_preflight_allows(page: Page) -> None:
    options = {"method": "PUT", "headers": {"X-Token": "t", "Content-Type": "application/json"}}
    assert fetched(page, "/put", {**options, "body": "{}"}) == [200, "t", "PUT"]
    assert fetched(page, "/cookie", {"credentials": "include"})[1] == "ada"
    assert fetched(page, "/cookie")[1] == ""


def test_a_page_sends_nothing_that_a_preflight_refuses(page: Page) -> None:
    assert fetched(page, "/put", {"method": "DELETE"}) == KEPT
    assert fetched(page, "/cookie", {"headers": {"X-Other": "1"}}) == KEPT


def test_a_page_reads_errors(page: Page) -> None:
    assert fetched(page, "/none")[0] == 404
    status, text, _ = fetched(page, "/fails")
    assert (status, "Internal Server Error" in text) == (500, True)


def test_a_page_of_another_origin_reads_nothing(page: Page) -> None:
    api = page.evaluate("api")
    with page.context.new_page() as other:
        other.goto(f"{page.url.replace('127.0.0.1', 'localhost')}")
        other.evaluate("address => { window.api = address }", api)
        assert fetched(other, "/cookie") == KEPT
        assert fetched(other, "/put", {"method": "PUT"}) == KEPT
