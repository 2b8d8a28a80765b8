"""vento_wsgi: its own router, context and broker."""

import os

import gevent
from bench.apps import work
from bench.apps.publisher import EVENT

from vento_wsgi import Broker, Context, Response, create_app, create_router
from vento_wsgi.formats import ndjson

router = create_router()
broker = Broker(os.environ["BENCH_BROKER"])


@router.get("/two")
def two(ctx: Context) -> Response:
    return ctx.stream(work.two(), "text/plain")


@router.get("/tokens")
def tokens(ctx: Context) -> Response:
    return ctx.stream(work.tokens(), "text/event-stream")


@router.get("/ticks")
def ticks(ctx: Context) -> Response:
    return ctx.stream(work.ticks(), "text/event-stream")


@router.get("/live")
def live(ctx: Context) -> Response:
    return ctx.stream(work.ticks(work.LIVE_PERIOD), "text/event-stream")


@router.get("/rows")
def rows(ctx: Context) -> Response:
    found = ndjson(work.records())
    return ctx.stream(found, found.content_type)


@router.get("/file")
def file(ctx: Context) -> Response:
    return ctx.file(work.FILE)


@router.get("/events")
def events(ctx: Context) -> Response:
    return ctx.sse(broker.subscribe("bench", after=ctx.last_event_id))


@router.post("/publish")
def publish(ctx: Context) -> Response:
    broker.publish("bench", ctx.request.text())
    return Response(status=204)


@router.post("/publishers/<int:number>/<int:count>")
def publishers(ctx: Context) -> Response:
    """Greenlets that publish `count` events each and give way after each one, as requests do."""

    def work() -> None:
        for _ in range(ctx.params["count"]):
            broker.publish("bench", EVENT)
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(work) for _ in range(ctx.params["number"])], raise_error=True)
    return Response(status=204)


app = create_app()
app.use(router)
