"""Falcon: a resource sets the response's stream."""

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


app = falcon.App()
app.add_route("/two", Stream(work.two, "text/plain"))
app.add_route("/tokens", Stream(work.tokens, "text/event-stream"))
