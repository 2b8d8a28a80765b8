"""Starlette: an async generator in a StreamingResponse.

Events are sent by sse-starlette. Each subscriber has a queue.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from bench.apps import work
from sse_starlette import (  # type: ignore[import-not-found,unused-ignore]
    EventSourceResponse,
)
from starlette.applications import (  # type: ignore[import-not-found,unused-ignore]
    Starlette,
)
from starlette.responses import (  # type: ignore[import-not-found,unused-ignore]
    Response,
    StreamingResponse,
)
from starlette.routing import Route  # type: ignore[import-not-found,unused-ignore]

queues: set[asyncio.Queue[str]] = set()


async def two(_request: Any) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in work.two():
            yield chunk

    return StreamingResponse(chunks(), media_type="text/plain")


async def tokens(_request: Any) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in work.tokens():
            yield chunk

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def ticking(period: float) -> AsyncIterator[bytes]:
    number = 0
    while True:
        yield work.tick(number)
        number += 1
        await asyncio.sleep(period)


async def ticks(_request: Any) -> Any:
    return StreamingResponse(ticking(work.PERIOD), media_type="text/event-stream")


async def live(_request: Any) -> Any:
    return StreamingResponse(ticking(work.LIVE_PERIOD), media_type="text/event-stream")


async def events(_request: Any) -> Any:
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)

    async def items() -> AsyncIterator[dict[str, str]]:
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            queues.discard(queue)

    return EventSourceResponse(items())


async def publish(request: Any) -> Any:
    event = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(event)
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/two", two),
        Route("/tokens", tokens),
        Route("/ticks", ticks),
        Route("/live", live),
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
    ]
)
