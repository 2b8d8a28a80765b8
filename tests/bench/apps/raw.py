"""A bare WSGI callable (PEP 3333). Each subscriber has a queue."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bench.apps import work
from gevent.queue import SimpleQueue

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

queues: set[SimpleQueue[bytes]] = set()


def events(queue: SimpleQueue[bytes]) -> Iterator[bytes]:
    try:
        yield b":\n\n"
        while True:
            yield queue.get()
    finally:
        queues.discard(queue)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/two":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return work.two()
        case "/tokens":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return work.tokens()
        case "/hello":
            body = work.HELLO.encode()
            headers = [("Content-Type", "text/html"), ("Content-Length", str(len(body)))]
            start_response("200 OK", headers)
            return (body,)
        case "/ticks":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return work.ticks()
        case "/live":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return work.ticks(work.LIVE_PERIOD)
        case "/rows":
            start_response("200 OK", [("Content-Type", "application/x-ndjson")])
            return map(str.encode, work.lines())
        case "/file":
            file = open(work.FILE, "rb")  # noqa: SIM115
            length = str(os.fstat(file.fileno()).st_size)
            headers = [("Content-Type", "application/octet-stream"), ("Content-Length", length)]
            start_response("200 OK", headers)
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
            return wrapped
        case "/events":
            queue: SimpleQueue[bytes] = SimpleQueue()
            queues.add(queue)
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return events(queue)
        case "/publish":
            event = b"data: %b\n\n" % environ["wsgi.input"].read()
            for queue in queues:
                queue.put(event)
            start_response("204 No Content", [])
            return ()
    start_response("404 Not Found", [("Content-Length", "0")])
    return ()
