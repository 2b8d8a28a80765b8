"""The application of test_subscribers.py: handlers that pass subscriptions on in different ways.

The cyclic garbage collector is off, so that leftovers of a visit are not collected by chance.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

from vento_wsgi import Broker, Context, Event, Response, Subscription, create_app, create_router

gc.disable()

router = create_router()
broker = Broker(os.environ["URL"], keep=int(os.environ.get("KEEP", "10000")))


def same(event: Event) -> Event:
    return event


def own(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:  # noqa: UP028
        yield event


def tidy(events: Iterable[Event]) -> Iterator[Event]:
    """With cleanup at the end that takes some time."""
    try:
        yield from own(events)
    finally:
        broker.publish("tidied", "x")


def breaks(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        break
    del events
    yield from broker.subscribe("never")


def raises(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        raise RuntimeError("told to fail")


def caught(events: Iterable[Event]) -> Iterator[Event]:
    with suppress(RuntimeError):
        yield from raises(events)
    del events
    yield from broker.subscribe("never")


HOW: dict[str, Callable[[Subscription], Iterable[Event]]] = {
    "itself": lambda events: events,
    "generator": own,
    "tidy": tidy,
    "nested": lambda events: (event for event in own(event for event in events)),
    "map": partial(map, same),
    "filter": lambda events: filter(lambda event: event.data != "no", events),
    "chain": lambda events: chain([Event("first")], events),
    "with an id": lambda events: chain([Event(id=events.last_id)], events),
    "breaks": breaks,
    "raises": raises,
    "caught": caught,
}


@router.get("/events/<how>/<topic>")
def events(ctx: Context) -> Response:
    options: dict[str, Any] = {}
    if "heartbeat" in ctx.query:
        options["heartbeat"] = float(ctx.query["heartbeat"])
    backlog = int(ctx.query.get("backlog", "1000"))
    subscription = broker.subscribe(ctx.params["topic"], after=ctx.last_event_id, backlog=backlog)
    return ctx.sse(HOW[ctx.params["how"]](subscription), **options)


@router.get("/publish/<topic>")
def publish(ctx: Context) -> Response:
    count = int(ctx.query.get("count", "1"))
    return ctx.text(" ".join(broker.publish(ctx.params["topic"], str(n)) for n in range(count)))


@router.get("/subscribers")
def subscribers(ctx: Context) -> Response:
    return ctx.text(str(broker.subscribers))


@router.get("/")
def index(ctx: Context) -> Response:
    return ctx.text("here")


app = create_app()
app.use(router)
