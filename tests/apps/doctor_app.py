"""The application of test_doctor.py: streams whose items say when they were made, and others.

Intervals are milliseconds, so that a second has a hundred items.
"""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vento_wsgi import Context, Event, Response, create_app, create_router
from vento_wsgi.doctor import pulse

router = create_router()
router.get("/pulse")(pulse(0.01))


@router.get("/")
def home(ctx: Context) -> Response:
    return ctx.text("here")


@router.get("/plain")
def plain(ctx: Context) -> Response:
    """Events without ids and times, 100 a second."""
    return ctx.sse(slowly(f"{number:08}" * 10 for number in itertools.count()))


@router.get("/batches")
def batches(ctx: Context) -> Response:
    """Eight at a time, made so by the application and not by a proxy."""

    def items() -> Iterator[Event]:
        for number in itertools.count():
            yield Event(str(number))
            if number % 8 == 7:
                time.sleep(0.3)

    return ctx.sse(items())


@router.get("/deaf")
def deaf(ctx: Context) -> Response:
    """Ignores Last-Event-ID: starts at 1, or with ?clock at the current time."""
    first = time.monotonic_ns() if "clock" in ctx.query else 1
    return ctx.sse(slowly(Event("x", id=number) for number in itertools.count(first)))


@router.get("/mute")
def mute(ctx: Context) -> Response:
    """Events; a client that reconnects gets none."""
    if ctx.last_event_id and "refuses" in ctx.query:
        return ctx.text("no", status=500)

    def items() -> Iterator[Event]:
        if not ctx.last_event_id:
            yield from (Event("x", id=number) for number in range(1, 6))
        time.sleep(60)

    return ctx.sse(items())


@router.get("/beats")
def beats(ctx: Context) -> Response:
    """Two events, and then nothing but heartbeats."""

    def items() -> Iterator[Event]:
        yield Event("one")
        yield Event("two")
        time.sleep(60)

    return ctx.sse(items(), heartbeat=float(ctx.query.get("every", "0")))


@router.get("/silent")
def silent(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        time.sleep(60)
        yield ""

    return ctx.stream(items(), "application/x-ndjson")


@router.get("/late")
def late(ctx: Context) -> Response:
    time.sleep(float(ctx.query.get("by", "0")))
    return ctx.sse(slowly(itertools.count()))


@router.get("/rows")
def rows(ctx: Context) -> Response:
    """Lines of JSON, some with their time; they end after as many as the query says."""
    count = int(ctx.query.get("count", "1000"))
    lines = (f'{{"ts": {time.time() * 1000}, "pad": "{"x" * 60}"}}\n' for _ in range(count))
    return ctx.stream(slowly(lines), "application/x-ndjson")


@router.get("/fails")
def fails(ctx: Context) -> Response:
    def items() -> Iterator[str]:
        for number in range(20):
            yield f"{number}\n"
            time.sleep(0.01)
        raise RuntimeError("as asked for")

    return ctx.stream(items(), "text/plain")


@router.get("/measured")
def measured(_ctx: Context) -> Response:
    return Response(
        ["data: x\n\n"], content_type="text/event-stream", headers=[("Content-Length", "9")]
    )


@router.get("/status/<int:code>")
def status(ctx: Context) -> Response:
    return Response(b"", status=ctx.params["code"], headers={"Location": "/pulse"})


@router.get("/headers")
def headers(ctx: Context) -> Response:
    """A stream with the headers in the query."""
    return ctx.sse(slowly(itertools.count()), headers=list(ctx.query.items()))


@router.get("/file")
def file(ctx: Context) -> Response:
    return ctx.file("file.txt", root=Path(os.environ["FILES"]))


@router.get("/unranged")
def unranged(_ctx: Context) -> Response:
    return Response(b"0123456789" * 10, content_type="application/octet-stream")


def slowly(items: Iterator[object]) -> Iterator[object]:
    for item in items:
        yield item
        time.sleep(0.01)


app = create_app()
app.use(router)
