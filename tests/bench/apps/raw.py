"""A bare WSGI callable (PEP 3333)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.apps import work

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/two":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return work.two()
        case "/tokens":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return work.tokens()
        case "/ticks":
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return work.ticks()
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
    start_response("404 Not Found", [("Content-Length", "0")])
    return ()
