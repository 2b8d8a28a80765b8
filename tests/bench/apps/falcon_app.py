"""Falcon: a resource sets the response's stream."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import falcon  # type: ignore[import-not-found,unused-ignore]
from bench.apps import work


class Stream:
    def __init__(self, chunks: Callable[[], Iterator[bytes]], content_type: str) -> None:
        self.chunks = chunks
        self.content_type = content_type

    def on_get(self, _request: Any, response: Any) -> None:
        response.content_type = self.content_type
        response.stream = self.chunks()


class File:
    def on_get(self, _request: Any, response: Any) -> None:
        response.content_type = "application/octet-stream"
        file = open(work.FILE, "rb")  # noqa: SIM115
        response.set_stream(file, os.fstat(file.fileno()).st_size)


app = falcon.App()
app.add_route("/two", Stream(work.two, "text/plain"))
app.add_route("/tokens", Stream(work.tokens, "text/event-stream"))
app.add_route("/ticks", Stream(work.ticks, "text/event-stream"))
app.add_route("/file", File())
