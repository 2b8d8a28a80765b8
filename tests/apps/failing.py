"""Streams that fail, and middleware that drops them: the application of test_failures.py."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from vento_wsgi import Context, Response, create_app, create_router
from vento_wsgi.middleware import limit_streams

router = create_router()
calls = {"fails": 0, "closed": 0}
endings: list[str] = []


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.json({**calls, "endings": endings})


@router.get("/fails", content_type="text/plain")
def fails(_ctx: Context) -> Iterator[str]:
    calls["fails"] += 1
    if calls:
        raise RuntimeError("told to fail")
    yield "never"


@router.get("/fails-later")
def fails_later(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        yield "first\n"
        time.sleep(0.05)
        raise RuntimeError("told to fail")

    return ctx.stream(items(), "text/plain")


@router.get("/short", content_type="text/plain")
def short(_ctx: Context) -> Iterator[str]:
    yield "whole\n"


@router.get("/deadline")
def deadline(ctx: Context) -> Response:
    def items() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)

    return ctx.stream(
        items(), deadline=0.5, on_end=lambda ending: endings.append(str(ending.reason))
    )


@router.get("/finishers")
def finishers(ctx: Context) -> Response:
    def fail(_response: Any) -> None:
        raise RuntimeError("told to fail")

    ctx.on_response(fail)
    return ctx.text("hello")


@router.get("/timeout")
def timeout(ctx: Context) -> Response:
    with gevent.Timeout(0.05):
        time.sleep(10)
    return ctx.text("never")


def drops(ctx: Context, go_on: Callable[[], Any]) -> Any:
    response = go_on()
    if ctx.query.get("how") == "raise":
        raise RuntimeError("told to fail")
    if ctx.query.get("how") == "replace":
        return ctx.text("other")
    if ctx.query.get("how") == "wrap":
        return ctx.stream(map(bytes.upper, response.response), "text/plain")
    return response


@router.get("/limited", middleware=[drops, limit_streams(per_worker=1)])
def limited(ctx: Context) -> Response:
    class Items(Iterator[str]):
        items = iter(["a", "b"])

        def __next__(self) -> str:
            return next(self.items)

        def close(self) -> None:
            calls["closed"] += 1

    return ctx.stream(Items(), "text/plain")


app = create_app()
app.use(router)
