"""Streams that fail and end, in an application that sets logging up as $LOGGED says."""

from __future__ import annotations

import json
import logging
import logging.config
import os
from collections.abc import Iterator
from typing import Any

from vento_wsgi import Broker, Context, create_app, create_router
from vento_wsgi.middleware import StreamGuard

router, broker = create_router(), Broker("memory://")


class Json(logging.Formatter):
    """One JSON object a line, with all that a record has."""

    def format(self, record: logging.LogRecord) -> str:
        told = {**vars(record), "message": record.getMessage(), "text": super().format(record)}
        return json.dumps(told, default=str)


def to_file() -> logging.Handler:
    handler = logging.FileHandler(os.environ["LOGGED_FILE"])
    handler.setFormatter(Json())
    return handler


def root() -> None:
    logging.getLogger().addHandler(to_file())


def own() -> None:
    logging.getLogger("vento_wsgi").addHandler(to_file())
    logging.getLogger("vento_wsgi").propagate = False


def other() -> None:
    """Sets up one unrelated logger, and disables all others."""
    logging.config.dictConfig({"version": 1, "loggers": {"shop": {"level": "INFO"}}})


def dictionary() -> None:
    """As in Flask's documentation: all existing loggers are disabled."""
    logging.config.dictConfig(
        {
            "version": 1,
            "formatters": {"json": {"()": Json}},
            "handlers": {
                "file": {
                    "class": "logging.FileHandler",
                    "filename": os.environ["LOGGED_FILE"],
                    "formatter": "json",
                }
            },
            "root": {"level": "INFO", "handlers": ["file"]},
        }
    )


def factory() -> None:
    """Records that have a request id already."""
    make = logging.getLogRecordFactory()

    def made(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        record.request_id = "of the factory"
        return record

    logging.setLogRecordFactory(made)
    root()


def nobody() -> None:
    """Handlers that write nothing."""
    logging.getLogger().addHandler(logging.NullHandler())


how, _, when = os.environ.get("LOGGED", "").partition(" ")
if how and not when:
    globals()[how]()


@router.get("/fails/<int:number>")
def fails(ctx: Context) -> Any:
    def failing() -> Iterator[str]:
        yield "some"
        raise ValueError(ctx.query.get("why", "because"))

    return ctx.stream(failing(), "text/plain")


@router.get("/short")
def short(ctx: Context) -> Any:
    return ctx.stream(iter(["some"]), headers={"Content-Length": "10"})


@router.get("/raises")
def raises(ctx: Context) -> Any:
    raise ValueError(ctx.query.get("why", "because"))


@router.get("/late")
def late(ctx: Context) -> Any:
    globals()[how]()
    return ctx.text("set up")


@router.get("/news")
def news(ctx: Context) -> Any:
    return ctx.sse(broker.subscribe("news"))


def legacy(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return failing_with(environ["QUERY_STRING"])


def failing_with(text: str) -> Iterator[bytes]:
    yield b"some"
    raise ValueError(text)


app = create_app()
app.use(router)
app.mount("/old", StreamGuard(legacy))
