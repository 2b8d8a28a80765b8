"""Hooks: the undocumented parts of gunicorn and gevent that we use, checked at boot.

StreamWorker overrides methods of gunicorn's classes and reads their private attributes. If one of
these were renamed, no error would be raised: an override that is no longer called could leave
responses without a head, for example. So every such name is listed here, and a worker refuses to
serve if one is missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import gevent
import gunicorn
from gevent import get_hub, monkey, ssl
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config, PostRequest, PreRequest
from gunicorn.glogging import Logger
from gunicorn.http import body, message, wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http2 import negotiation
from gunicorn.workers.ggevent import GeventWorker

__all__ = ["GEVENT", "GUNICORN", "WORKER", "missing"]

Hook = tuple[str, Callable[[], Any], str]
"""The name of an object in messages, a function that returns the object, and its hooks."""

_NONE: Any = None


def _message() -> Any:
    source = SimpleNamespace(recv=BytesIO(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").read)
    return next(RequestParser(Config(), source, ("", 0)))


def _response() -> Any:
    return wsgi.Response(_message(), _NONE, Config())


def _arguments(function: Any) -> Any:
    return SimpleNamespace(**inspect.signature(function).parameters)


def _names(function: Any) -> Any:
    """The names that a function uses."""
    return SimpleNamespace(**dict.fromkeys(function.__code__.co_names))


GUNICORN: tuple[Hook, ...] = (
    ("arbiter.Arbiter", lambda: Arbiter, "WORKER_BOOT_ERROR"),
    ("config.PreRequest", lambda: PreRequest, "default"),
    ("config.PostRequest", lambda: PostRequest, "default"),
    ("glogging.Logger", lambda: Logger, "access access_log_enabled atoms_wrapper_class"),
    ("util", lambda: util, "close close_graceful write_error"),
    (
        "workers.ggevent.GeventWorker",
        lambda: GeventWorker,
        "handle handle_error handle_request is_already_handled notify run",
    ),
    ("http.parser.RequestParser", lambda: RequestParser, "finish_body mesg_class __next__"),
    (
        "http.parser.RequestParser(…)",
        lambda: RequestParser(Config(), SimpleNamespace(recv=None), ("", 0)),
        "cfg mesg req_count source_addr unreader",
    ),
    (
        "http.message",
        lambda: message,
        "DEFAULT_MAX_HEADERFIELD_SIZE MAX_HEADERS MAX_REQUEST_LINE _check_fast_parser",
    ),
    ("http.unreader.SocketUnreader", lambda: SocketUnreader, "chunk"),
    ("http.unreader.SocketUnreader(…)", lambda: SocketUnreader(_NONE), "buf sock"),
    ("http.message.Request", lambda: Request, "_peer_is_trusted_proxy parse read_into"),
    (
        "http.message.Request(…)",
        _message,
        (
            "_expected_100_continue body cfg fragment headers method must_close path peer_addr "
            "proxy_protocol_info query remote_addr req_number scheme should_close trailers "
            "unreader uri version"
        ),
    ),
    ("http.body.Body(…)", lambda: body.Body(_NONE), "buf failed reader"),
    ("http.body.LengthReader(…)", lambda: body.LengthReader(_NONE, 0), "unreader"),
    ("http.body.ChunkedReader(…)", lambda: body.ChunkedReader(_NONE, _NONE), "buf"),
    (
        "http.wsgi",
        lambda: wsgi,
        "WSGIErrorsWrapper _make_early_hints_callback base_environ log",
    ),
    ("http.wsgi.FileWrapper(…)", lambda: wsgi.FileWrapper(BytesIO()), "filelike"),
    ("http2.negotiation", lambda: negotiation, "prior_knowledge_allowed upgrade_allowed"),
    ("http.wsgi.create", lambda: _arguments(wsgi.create), "response_class"),
    (
        "http.wsgi.Response",
        lambda: wsgi.Response,
        (
            "can_sendfile close force_close send_headers sendfile should_close start_response "
            "write write_file"
        ),
    ),
    (
        "http.wsgi.Response(…)",
        _response,
        (
            "_omits_body _omits_body_warned cfg chunked headers headers_sent must_close req "
            "response_length sent sock status upgrade version"
        ),
    ),
)

WORKER = "alive booted cfg log max_requests nr pid sockets wsgi"
"""The attributes of a worker that has loaded its application."""

GEVENT: tuple[Hook, ...] = (
    ("monkey", lambda: monkey, "get_original is_module_patched saved"),
    ("socket.socket", lambda: gevent.socket.socket, "_sock"),
    ("ssl.SSLSocket", lambda: _names(ssl.SSLSocket.send), "_sslobj"),
    ("server.StreamServer", lambda: StreamServer, "close max_accept start stop"),
    ("hub.loop", lambda: get_hub().loop, "run_callback run_callback_threadsafe io timer"),
    # libuv's loop has no count of its iterations: then no chunk is known to be the only one of its
    # iteration
    ("hub.loop", lambda: _loop_that_counts(), "iteration"),
)


def _loop_that_counts() -> Any:
    loop = get_hub().loop
    return SimpleNamespace(iteration=0) if "libuv" in type(loop).__module__ else loop


def _missing(package: Any, hooks: tuple[Hook, ...]) -> Iterator[str]:
    name = package.__name__
    for place, find, names in hooks:
        try:
            found = find()
        except Exception as error:
            yield f"{name} {package.__version__} has another {name}.{place} ({error!r})"
            continue
        for hook in names.split():
            if not hasattr(found, hook):
                yield f"{name} {package.__version__} has no {name}.{place}.{hook}"


def missing(worker: Any) -> str:
    """The hooks that the installed gunicorn and gevent lack, in one line; "" if none."""
    ours = "workers.base.Worker(…)", lambda: worker, WORKER
    return "; ".join([*_missing(gunicorn, (*GUNICORN, ours)), *_missing(gevent, GEVENT)])
