"""The application of test_gunicorn.py: streams that continue only when the test allows it.

All requests are served by one worker. A stream called `name` waits before each item until
`POST /let/name`. When it ends, its `finally` block records what ended it; `GET /ended/name` waits
for that record.
"""

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from werkzeug.exceptions import HTTPException

from vento_wsgi import Context, Event, Response, create_app, create_router

PATIENCE = 20.0  # seconds; longer than a test waits, so that the test is the one to give up

leaves: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
endings: defaultdict[str, list[str]] = defaultdict(list)
ended: defaultdict[str, threading.Event] = defaultdict(threading.Event)

router = create_router()


def steps(ctx: Context) -> Iterator[str]:
    """As many items as the query says, or without end."""
    name, how = ctx.params["name"], "the end"
    try:
        for _ in range(int(ctx.query.get("items", sys.maxsize))):
            leaves[name].acquire(timeout=PATIENCE)
            yield f"{name}\n"
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        endings[name].append(how)
        ended[name].set()
        if note := os.environ.get("NOTE"):
            Path(note).write_text(how)


@router.get("/steps/<name>")
def stream(ctx: Context) -> Response:
    return ctx.stream(steps(ctx), "text/plain")


@router.get("/events/<name>")
def events(ctx: Context) -> Response:
    return ctx.sse(steps(ctx))


@router.post("/let/<name>")
def let(ctx: Context) -> Response:
    leaves[ctx.params["name"]].release(int(ctx.query.get("times", "1")))
    return ctx.text("let")


@router.get("/ended/<name>")
def how_it_ended(ctx: Context) -> Response:
    name = ctx.params["name"]
    ended[name].wait(PATIENCE)
    return ctx.json(endings[name])


@router.get("/late/<name>")
def late(ctx: Context) -> Response:
    name = ctx.params["name"]
    leaves[name].acquire(timeout=PATIENCE)
    response = ctx.stream(steps(ctx), "text/plain")
    response.call_on_close(ended[name].set)
    return response


@router.get("/process")
def process(ctx: Context) -> Response:
    return ctx.json(os.getpid())


@router.get("/hello")
def hello(ctx: Context) -> Response:
    return ctx.text("hello")


@router.post("/unread")
def unread(ctx: Context) -> Response:
    return ctx.text("unread")


@router.post("/echo")
def echo(ctx: Context) -> Response:
    if "limit" in ctx.query:
        ctx.request.max_content_length = int(ctx.query["limit"])
    return ctx.stream(ctx.request.chunks(), "text/plain")


@router.post("/read")
def read(ctx: Context) -> Response:
    ctx.request.max_content_length = int(ctx.query.get("limit", "1000"))
    return ctx.text(ctx.request.text())


@router.post("/read-twice")
def read_twice(ctx: Context) -> Response:
    try:
        ctx.request.text()
    except HTTPException:  # a careless handler
        return ctx.text(ctx.request.text())
    return ctx.text("the body is whole")


@router.get("/fail/<name>")
def fail(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        yield "an item\n"
        raise RuntimeError(ctx.params["name"])

    kind = ctx.query.get("type", "text/plain")
    return ctx.stream(map(Event, items()) if kind == "text/event-stream" else items(), kind)


@router.get("/early/<name>")
def fail_early(ctx: Context) -> Response:
    raise RuntimeError(ctx.params["name"])


@router.get("/announced")
def announced(ctx: Context) -> Response:
    sends = int(ctx.query["sends"])
    data = bytes(ord("0") + number % 10 for number in range(sends))
    body = (data[place : place + 4] for place in range(0, sends, 4))
    return ctx.stream(body, headers={"Content-Length": ctx.query["says"]})


@router.get("/kept")
def kept(_ctx: Context) -> Response:
    headers = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "Connection": "keep-alive",
        "Keep-Alive": "timeout=5",
        "Transfer-Encoding": "chunked",
    }
    return Response((Event(item) for item in "ab"), headers=headers)


@router.get("/file/<name>")
def file(ctx: Context) -> Response:
    return ctx.file(ctx.params["name"], root=os.environ["FILES"])


app = create_app()
app.use(router)
