"""The application of test_top.py: streams that stay as they are until their client leaves."""

import os
import time
from collections.abc import Iterator

from gevent.monkey import get_original

from vento_wsgi import Broker, Context, Response, create_app, create_router

router = create_router()
broker = Broker("memory://")


@router.get("/")
def home(ctx: Context) -> Response:
    return ctx.json(os.getpid())


@router.get("/waits/<name>")
def waits(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        yield "first\n"
        time.sleep(60)

    return ctx.stream(items(), "text/plain")


@router.get("/starts")
def starts(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        time.sleep(60)
        yield ""

    return ctx.stream(items(), "text/plain")


@router.get("/flood")
def flood(ctx: Context) -> Response:
    def items() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    return ctx.stream(items())


@router.get("/ticks")
def ticks(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        while True:
            yield "x" * 100
            time.sleep(0.01)

    return ctx.stream(items(), "text/plain")


@router.get("/news")
def news(ctx: Context) -> Response:
    return ctx.sse(broker.subscribe("news"))


@router.get("/ends")
def ends(ctx: Context) -> Response:
    return ctx.stream(iter(["all"]), "text/plain")


@router.get("/fails")
def fails(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        yield "half"
        raise RuntimeError("as asked for")

    return ctx.stream(items(), "text/plain")


@router.get("/blocks")
def blocks(ctx: Context) -> Response:
    get_original("time", "sleep")(float(ctx.query["seconds"]))
    return ctx.text("done")


app = create_app()
app.use(router)
