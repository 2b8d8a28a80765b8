"""A stream of camera frames, as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from support.servers import serve


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tmp = tmp_path_factory.mktemp("camera")
    target = "apps.camera_app:app"
    with serve("gunicorn-StreamWorker", target, tmp=tmp) as running:
        yield f"http://{running.host}:{running.port}"


def test_a_browser_shows_each_frame_before_the_next_one_is_there(
    browser: Browser,
    camera: str,
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(camera)
        page.evaluate("document.body.append(Object.assign(new Image(), {src: '/frames'}))")
        for width in (1, 2, 3):
            page.evaluate("width => fetch(`/show/${width}`, {method: 'POST'})", width)
            page.wait_for_function(
                "width => document.images[0].naturalWidth === width", arg=width, timeout=20_000
            )
        page.evaluate("fetch('/show/0', {method: 'POST'})")
        page.wait_for_function("fetch('/open').then(it => it.text()).then(it => it === '0')")
        assert page.evaluate("[document.images[0].naturalWidth, document.images[0].complete]") == [
            3,
            True,
        ]
