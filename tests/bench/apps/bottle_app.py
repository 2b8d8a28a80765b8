"""Bottle: a callback returns the chunks."""

import os
from collections.abc import Iterator
from typing import Any

import bottle  # type: ignore[import-not-found,import-untyped,unused-ignore]
from bench.apps import work


def two() -> Iterator[bytes]:
    bottle.response.content_type = "text/plain"
    return work.two()


def tokens() -> Iterator[bytes]:
    bottle.response.content_type = "text/event-stream"
    return work.tokens()


def ticks() -> Iterator[bytes]:
    bottle.response.content_type = "text/event-stream"
    return work.ticks()


def file() -> Any:
    folder, name = os.path.split(work.FILE)
    return bottle.static_file(name, root=folder, mimetype="application/octet-stream")


app = bottle.Bottle()
app.get("/two", callback=two)
app.get("/tokens", callback=tokens)
app.get("/ticks", callback=ticks)
app.get("/file", callback=file)
