"""Websockets of Flask's extensions, which take the socket from the server, bare and guarded."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_sock import Sock  # type: ignore[import-untyped, unused-ignore]
from flask_socketio import SocketIO  # type: ignore[import-untyped, unused-ignore]
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from vento_wsgi.middleware import StreamGuard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

with_sock = Flask("with_sock")
sock = Sock(with_sock)


@sock.route("/echo")  # type: ignore[untyped-decorator, unused-ignore]
def echo(ws: Any) -> None:
    while (said := ws.receive()) != "bye":
        ws.send(said)


with_socketio = Flask("with_socketio")
socketio = SocketIO(with_socketio, async_mode="gevent")


@socketio.on("message")  # type: ignore[untyped-decorator, unused-ignore]
def on_message(said: str) -> None:
    socketio.send(said)


def ends(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What an application may do instead of a response."""
    from gevent import GreenletExit

    kinds: dict[str, Any] = {
        "stop": StopIteration,
        "exit": SystemExit,
        "kill": GreenletExit,
        "error": RuntimeError,
    }
    match environ["PATH_INFO"].strip("/").split("-"):
        case [name, "started"]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            raise kinds[name]()
        case ["nothing"]:
            return None  # type: ignore[return-value]
        case ["empty"]:  # as flask-sock does on gevent.pywsgi
            return []
        case ["emptied"]:
            return iter([])
        case ["handled"]:
            from gunicorn.workers.base_async import ALREADY_HANDLED

            return ALREADY_HANDLED  # type: ignore[return-value]
        case [name] if name in kinds:
            raise kinds[name]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"modules: ", str("geventwebsocket" in sys.modules).encode()]


site = DispatcherMiddleware(ends, {"/sock": with_sock, "/io": with_socketio})
app = DispatcherMiddleware(ends, {"/bare": site, "/guarded": StreamGuard(site)})
