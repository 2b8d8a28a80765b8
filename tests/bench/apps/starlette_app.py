"""Starlette: an async generator in a StreamingResponse, a FileResponse."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from bench.apps import work
from starlette.applications import (  # type: ignore[import-not-found,unused-ignore]
    Starlette,
)
from starlette.responses import (  # type: ignore[import-not-found,unused-ignore]
    FileResponse,
    StreamingResponse,
)
from starlette.routing import Route  # type: ignore[import-not-found,unused-ignore]


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


async def ticks(_request: Any) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        number = 0
        while True:
            yield work.tick(number)
            number += 1
            await asyncio.sleep(work.PERIOD)

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def file(_request: Any) -> Any:
    return FileResponse(work.FILE, media_type="application/octet-stream")


app = Starlette(
    routes=[
        Route("/two", two),
        Route("/tokens", tokens),
        Route("/ticks", ticks),
        Route("/file", file),
    ]
)
