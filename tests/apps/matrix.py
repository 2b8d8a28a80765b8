"""The application of test_servers.py: generators that continue only when the test allows it.

A generator connects to the port `gate` of the query. Before each item it writes `?` and waits for
one byte: `n` for the next item, `f` to fail, end of file to end. However it ends, its `finally`
block writes a full stop.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

from vento_wsgi import Context, Event, Response, create_app, create_router

router = create_router()


def steps(ctx: Context) -> Iterator[int]:
    port = int(ctx.query["gate"])
    with socket.create_connection(("127.0.0.1", port)) as gate:
        number = 0
        try:
            while True:
                gate.sendall(b"?")
                answer = gate.recv(1)
                if answer == b"f":
                    raise RuntimeError(f"told to fail at gate {port}")
                if not answer:
                    return
                number += 1
                yield number
        finally:
            with suppress(ConnectionError):  # the test may be over
                gate.sendall(b".")


@router.route("/hello")
def hello(ctx: Context) -> Response:
    return ctx.text("hello")


@router.route("/chunks")
def chunks(ctx: Context) -> Response:
    headers = {"Content-Length": length} if (length := ctx.query.get("length")) else None
    return ctx.stream((f"chunk {n}\n" for n in steps(ctx)), "text/plain", headers=headers)


@router.route("/events")
def events(ctx: Context) -> Response:
    return ctx.sse(Event(str(n), id=str(n)) for n in steps(ctx))


@router.route("/file")
def file(ctx: Context) -> Response:
    return ctx.file(os.environ["MATRIX_FILE"], "application/octet-stream")


app = create_app()
app.use(router)
