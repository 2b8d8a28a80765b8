"""The application of test_parked.py: subscriptions, parked where the server can do that.

It extends engine.py with a broker. Events are published by HTTP requests. The options and the
name of a stream are in the query, as in engine.py.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from apps import engine

from vento_wsgi import Broker, Context, Event, Response, create_app, create_router
from vento_wsgi.broker.body import SubscriptionBody
from vento_wsgi.broker.fanout import Fanout
from vento_wsgi.broker.subscription import Subscription
from vento_wsgi.middleware import limit_streams

router = create_router()
broker = Broker(os.environ.get("URL", "memory://"))


@router.get("/events/<topic>")
def events(ctx: Context) -> Response:
    """What is published to the topic."""
    query = ctx.query
    options: dict[str, Any] = {
        name: float(query[name])
        for name in ("heartbeat", "deadline", "send_timeout")
        if name in query
    }
    if "beat" in query:
        options["heartbeat"] = query["beat"].encode(), options["heartbeat"]
    limits: dict[str, Any] = {"slow": query["slow"]} if "slow" in query else {}
    if "backlog" in query:
        limits["backlog"] = int(query["backlog"])
    if "name" in query:
        note = engine.notes[query["name"]]

        def on_end(ending: Any) -> None:
            note.endings.append({**vars(ending), "reason": str(ending.reason)})
            if "says" in query:
                time.sleep(0.01)  # as a database does
                broker.publish(query["says"], "left")
            if "fails" in query:
                raise RuntimeError(f"on_end of {query['name']}")

        options["on_end"] = on_end
    if "sndbuf" in query:
        sock: socket.socket = ctx.environ["gunicorn.socket"]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(query["sndbuf"]))
    after = ctx.last_event_id
    topics = ctx.params["topic"].split(",")
    response = ctx.sse(broker.subscribe(*topics, after=after, **limits), **options)
    if "closes" in query:
        response.call_on_close(lambda: engine.notes[query["closes"]].left.append("closed"))
    if "length" in query:
        response.headers["Content-Length"] = query["length"]
    return response


@router.get("/publish/<topic>")
def publish(ctx: Context) -> Response:
    """Publish `count` events of `size` bytes, numbered from `start` on."""
    query = ctx.query
    start, size = int(query.get("start", "0")), int(query.get("size", "1"))
    ids = [
        broker.publish(
            ctx.params["topic"], Event(str(n).rjust(size, "."), event=query.get("event"))
        )
        for n in range(start, start + int(query.get("count", "1")))
    ]
    return ctx.text(" ".join(ids))


@router.get("/parked")
def parked(ctx: Context) -> Response:
    """Counts of what a parked subscriber has, and of what it must not have."""
    from greenlet import greenlet

    from vento_wsgi.broker.parked import ParkedSubscriber

    gc.collect()
    kinds = (greenlet, ParkedSubscriber, Subscription, SubscriptionBody, Response, Context)
    found = dict.fromkeys((kind.__name__ for kind in kinds), 0)
    for thing in gc.get_objects():
        for kind in kinds:
            found[kind.__name__] += isinstance(thing, kind) and not getattr(thing, "dead", False)
    here = broker._opened()
    fanout: Fanout = here.told()
    return ctx.json({**found, "sinks": len(fanout._all())})


@router.get("/close")
def close(ctx: Context) -> Response:
    """Close the broker; the next use makes another log."""
    broker.close()
    return ctx.text("closed")


class Wrapped:
    """A body wrapped by middleware."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        if hasattr(self._body, "close"):
            self._body.close()


limited = create_app()
limited.use(limit_streams(per_worker=1))
limited.use(router)

inner = create_app()
inner.use(engine.router)
inner.use(router)
inner.mount("/limited", limited)


def app(environ: Any, start_response: Any) -> Iterable[bytes]:
    body = inner(environ, start_response)
    return Wrapped(body) if "wrapped" in environ["QUERY_STRING"] else body
