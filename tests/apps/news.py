"""Events of the broker at $VENTO_BROKER_URL, and a page that counts them."""

import os

from vento_wsgi import Broker, Context, Response, create_app, create_router

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>News</title>
<script>
const seen = [], opened = [];
const source = new EventSource("/news?topic=news&below=world");
source.onopen = () => opened.push(performance.now());
source.onmessage = (event) => seen.push([event.lastEventId, event.data]);
source.addEventListener("gap", (event) => seen.push([event.lastEventId, "gap"]));
</script>
"""

router = create_router()
broker = Broker()


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.html(PAGE)


@router.get("/news")
def news(ctx: Context) -> Response:
    told = broker.subscribe(
        *ctx.query.getlist("topic"), below=ctx.query.getlist("below"), after=ctx.last_event_id
    )
    return ctx.sse(told, headers={"Worker": str(os.getpid())})


app = create_app()
app.use(router)
