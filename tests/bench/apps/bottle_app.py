"""Bottle: a callback returns the chunks."""

from collections.abc import Iterator

import bottle  # type: ignore[import-not-found,import-untyped,unused-ignore]
from bench.apps import work


def two() -> Iterator[bytes]:
    bottle.response.content_type = "text/plain"
    return work.two()


app = bottle.Bottle()
app.get("/two", callback=two)
