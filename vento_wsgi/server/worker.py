"""StreamWorker: gunicorn's gevent worker, for streams.

    gunicorn -k vento_wsgi.server.StreamWorker module:app

Any WSGI application runs on it. What a valid request is, its environ and the response's headers are
gunicorn's. Different are: how a request is parsed and how long a client is waited for
(request_parser.py), how a response is written (response.py), and how the worker stops. It closes
its listening sockets at once, ends the connections that wait between two requests, and ends its
streams (drain.py).

An OSError is the client's if a method of the client's socket raised it; others are the
application's, which has sockets of its own. Errors of clients are logged at level debug only. After
the head of a response nothing is written but its body.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from logging import DEBUG
from traceback import walk_tb
from typing import Any, NoReturn

import gevent
from gevent import GreenletExit, get_hub
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import PostRequest, PreRequest
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http2 import negotiation
from gunicorn.sock import is_http2_negotiated, ssl_context
from gunicorn.workers.ggevent import GeventWorker
from werkzeug.exceptions import ClientDisconnected

from ..broker.body import SubscriptionBody
from ..exceptions import StreamAborted
from ..streaming.endings import broken_request
from ..streaming.environ import CONNECTION
from ..streaming.options import SEND_TIMEOUT
from ..streaming.ticker import process_ticker
from ..streaming.turns import turns
from . import hooks
from .boot_checks import prepare
from .drain import STEP, Drain
from .environ import connection_environ, worker_environ
from .request_parser import RECEIVE_TIMEOUT, FastParser, Idle, Reader, Requests, Waits
from .response import WorkerResponse, sender_of
from .status import Status
from .watchdog import Watchdog

__all__ = ["StreamWorker"]

BLOCK_LIMIT = 1.0
"""Seconds without a turn of the loop that are logged, unless $VENTO_BLOCK_LIMIT says otherwise."""

SETTLED = 1.0
"""Seconds after which a connection without a request, in a worker that stops, will have none."""

DRAIN_WINDOW = 3.0
"""Seconds over which event streams end, unless $VENTO_DRAIN_WINDOW says otherwise."""


def _name(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{os.fsdecode(address)}"


def _seconds(name: str, default: float) -> float:
    """The value of an environment variable. Raises ValueError if it is no number of seconds."""
    told = os.environ.get(name)
    try:
        found = default if told is None else float(told)
    except ValueError:
        found = -1
    if not 0 <= found < math.inf:
        raise ValueError(f"${name} is a number of seconds, 0 or more, not {told!r}")
    return found


class _Parked(BaseException):
    """Leave the request loop: a parked subscriber owns the socket now."""


class _Listener:
    """What requests need to know of a listening socket, which is closed before they all end."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        return self._name


class _Page:
    """Takes one of gunicorn's error pages in place of the client's socket."""

    data = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, data: bytes) -> None:
        self.data += data


def _raised_by(sock: Any, error: BaseException) -> bool:
    """Whether `error` was raised in a method of this very socket, whoever called it."""
    return isinstance(error, OSError) and any(
        frame.f_locals.get("self") is sock for frame, _ in walk_tb(error.__traceback__)
    )


class StreamWorker(GeventWorker):
    """A gevent worker whose responses take few sends and whose streams end well."""

    _alive: bool

    def __init__(self, *args: Any, **options: Any) -> None:
        self._drain = Drain(DRAIN_WINDOW)
        self._servers: list[StreamServer] = []
        self._stopping = Event()
        self._tls: ssl.SSLContext | None = None
        self._until = 0.0
        super().__init__(*args, **options)
        self._waits = Waits(self.cfg.keepalive, RECEIVE_TIMEOUT)
        self._parser: FastParser | None = None
        self._environ: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Set by gunicorn, and cleared from wherever it decides that this worker stops."""
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        stops = not alive and self._alive
        self._alive = alive
        if stops and self.booted:
            # this may be a signal handler: the loop does the rest
            get_hub().loop.run_callback_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._drain.draining:
            return
        for server in self._servers:
            server.close()  # this worker's own descriptor: those of the others stay open
        self._until = time.monotonic() + self.cfg.graceful_timeout
        self._drain.begin(get_hub().loop, self.cfg.graceful_timeout)
        self._waits.close_idle(time.monotonic() - SETTLED)
        self._stopping.set()

    def _boot(self) -> float | None:
        """Prepare to serve. Returns the seconds without a turn of the loop that are logged.

        Called by run(), without which nothing is served, whatever else gunicorn names otherwise.
        """
        if missing := hooks.missing(self):
            self._refuse_to_boot(missing)
        try:
            self._drain.window = _seconds("VENTO_DRAIN_WINDOW", DRAIN_WINDOW)
            receive = _seconds("VENTO_RECEIVE_TIMEOUT", RECEIVE_TIMEOUT)
            WorkerResponse.send_timeout = _seconds("VENTO_SEND_TIMEOUT", SEND_TIMEOUT) or None
            block_limit = _seconds("VENTO_BLOCK_LIMIT", BLOCK_LIMIT) or None
        except ValueError as error:
            self._refuse_to_boot(error)
        self._waits = Waits(self.cfg.keepalive, receive or math.inf)
        if self.cfg.protocol != "http":
            self._refuse_to_boot(f"it speaks http, not {self.cfg.protocol}: unset `protocol`")
        try:
            self._parser = FastParser.of(self.cfg)
        except RuntimeError as error:
            self._refuse_to_boot(error)
        self._environ = worker_environ(self.cfg)
        self._take_settings()
        prepare(self)
        if "h2" in self.cfg.http_protocols:
            self.log.warning(
                "the requests of an HTTP/2 connection are served one after another: "
                "a stream holds up all that its client asks for after it"
            )
        return block_limit

    def _take_settings(self) -> None:
        """Read from gunicorn's configuration what each request would ask it for."""
        cfg, log = self.cfg, self.log
        self._keepalive = bool(cfg.keepalive)
        # gunicorn's own pre_request hook writes a line at level debug
        quiet = cfg.pre_request is PreRequest.default and not log.error_log.isEnabledFor(DEBUG)
        self._pre_request = None if quiet else cfg.pre_request
        self._post_request = None if cfg.post_request is PostRequest.default else cfg.post_request
        # a subclass may count requests: statsd's does
        counts = type(log).access is not Logger.access
        self._logs_access = counts or log.access_log_enabled

    def _refuse_to_boot(self, why: object) -> NoReturn:
        self.log.critical("StreamWorker cannot run here: %s", why)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        block_limit = self._boot()
        ticker = process_ticker(cooperative=True)
        ticker.add(self)
        if block_limit is not None:
            ticker.add(Watchdog(block_limit))
        status = self._status()
        status.open()
        try:
            self._listen()
            while self.alive:
                self.notify()
                self._stopping.wait(1.0)
            self._stop()  # gunicorn may be here before the loop
            self._wait(self._until)
            if any(server.pool for server in self._servers):
                self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
                for server in self._servers:
                    server.stop(timeout=1)
            self._drain.end()
            self._wait(time.monotonic() + SETTLED)  # for what on_end does
        finally:
            status.close()

    def _wait(self, until: float) -> None:
        """Wait for connections and streams to end. A parked subscriber is in no pool."""
        while self._drain.streams or any(server.pool for server in self._servers):
            if time.monotonic() >= until:
                return
            self.notify()
            gevent.sleep(STEP)

    def _listen(self) -> None:
        if self.cfg.is_ssl:
            self._tls = ssl_context(self.cfg)
        for sock in self.sockets:
            sock.setblocking(True)
            handle = partial(self.handle, _Listener(sock.getsockname()))
            server = StreamServer(sock, handle=handle, spawn=Pool(self.worker_connections))
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            self._servers.append(server)

    def _status(self) -> Status:
        about = {
            "master": os.getppid(),
            "worker": os.getpid(),
            "name": self.cfg.proc_name,
            "listening": [_name(listener.getsockname()) for listener in self.sockets],
        }
        return Status(self._drain, about, self.log)

    def tick(self, now: float) -> None:
        """Called by the ticker: close connections that have been waited for long enough."""
        self._waits.tick(now)
        if self._drain.draining:
            self._waits.close_idle(now - SETTLED)

    # one connection

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.setblocking(1)
        reader: Reader | None = None
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(
                    client, server_side=True, do_handshake_on_connect=False
                )
            reader = Reader(client, self._waits)
            if self._tls is not None:
                with reader.limited():
                    client.do_handshake()
            if "h2" in self.cfg.http_protocols and self._may_speak_http2(client, addr):
                super().handle(listener, client, addr)
            else:
                self._serve(listener.getsockname(), client, addr, reader)
        except (Idle, _Parked, StopIteration, GreenletExit, OSError) as reason:
            # GreenletExit: the worker's grace period is over.
            # OSError: the handshake or the parser, which read nothing but the client's socket
            self.log.debug("Closing connection. %r", reason)
            if isinstance(reason, ClientDisconnected) and reader is not None and reader.head:
                self._refuse(reason, client, empty=reader.asks_for_head)
        except BaseException as error:
            empty = reader is not None and reader.asks_for_head
            self._say_error(None, client, addr, error, empty=empty)
        finally:
            util.close(client)

    def _may_speak_http2(self, client: Any, addr: Any) -> bool:
        """Whether gunicorn's own loop serves a connection, with its own limits on waits."""
        return (
            is_http2_negotiated(client)
            or negotiation.prior_knowledge_allowed(self.cfg, addr)
            or negotiation.upgrade_allowed(self.cfg, addr)
        )

    def _serve(self, listener_name: Any, client: Any, addr: Any, reader: Reader) -> None:
        shared = connection_environ(self._environ, client, addr, listener_name)
        requests = Requests(self.cfg, reader, addr, listener_name, self._parser, shared)
        proxy_protocol_info: Any = {}
        sender, turn = sender_of(client), turns()
        while True:
            turn.pause()  # a client that is quick does not keep the others waiting
            req, environ = requests.next()
            if environ is None:
                if req.proxy_protocol_info:
                    proxy_protocol_info = req.proxy_protocol_info
                else:
                    req.proxy_protocol_info = proxy_protocol_info
            self._answer(listener_name, req, client, addr, environ, sender)

    # one request

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Called by gunicorn's own loop, for what may become HTTP/2."""
        self._answer(listener_name, req, sock, addr, None, sender_of(sock))
        return True

    def _answer(
        self,
        listener_name: Any,
        req: Any,
        sock: Any,
        addr: Any,
        known: dict[str, Any] | None,
        sender: Callable[[Any], int],
    ) -> None:
        """Answer one request. Raises StopIteration at the end of the connection.

        known: its environ, if the parser has made it. sender: sends to `sock` without waiting.
        """
        start = datetime.now() if self._logs_access else None
        environ: Any = known
        response: Any = None
        try:
            if self._pre_request is not None:
                self._pre_request(self, req)
            if environ is None:
                response, environ = wsgi.create(
                    req, sock, addr, listener_name, self.cfg, response_class=WorkerResponse
                )
                environ["wsgi.multithread"] = True
            else:
                response = WorkerResponse(req, sock, self.cfg, sender)
                environ["wsgi.early_hints"] = response.send_early_hints
            response.drain = self._drain
            environ[CONNECTION] = response
            self.nr += 1
            if self.nr >= self.max_requests and self._alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            if not (self._keepalive and self._alive):
                response.must_close = True
            body = self.wsgi(environ, response.start_response)
            if self.is_already_handled(body):
                return
            parks = response.chunked and response.can_park
            if parks and (subscription := SubscriptionBody.of(body)) is not None:
                self._park(subscription, response, req, environ, start)
            try:
                if isinstance(body, environ["wsgi.file_wrapper"]):
                    response.write_file(body)
                else:
                    response.write_all(body)
                response.close()
            except BaseException:
                response.send_rest()
                raise
            finally:
                if not response.headers_sent:
                    response.sent = 0
                if start is not None:
                    self.log.access(response, req, environ, datetime.now() - start)
                if hasattr(body, "close"):
                    body.close()
            if not self._alive or response.closes:
                raise StopIteration
        except (StopIteration, _Parked):
            raise
        except BaseException as error:  # gevent.Timeout is no Exception
            self._failed(error, response, req, sock, addr)
            raise StopIteration from None
        finally:
            if response is not None:
                response.failure = None  # its traceback leads to what the source holds
            if self._post_request is not None and not isinstance(sys.exc_info()[1], _Parked):
                self._answered(response, req, {} if response is None else environ)

    def _failed(self, error: BaseException, response: Any, req: Any, sock: Any, addr: Any) -> None:
        """Deal with what came out of the application, or out of writing its response."""
        begun = response is not None and response.headers_sent
        if response is not None:
            response.abandon(StreamAborted("the response failed"))
        broken = broken_request(error)
        if isinstance(error, StreamAborted):
            broken = getattr(req.unreader, "broken", None)
        if broken is not None or isinstance(error, StreamAborted) or _raised_by(sock, error):
            self.log.debug("Closing connection. %r", error)
            if broken is not None and not begun:
                self._refuse(broken, sock, empty=req.method == "HEAD")
        elif isinstance(error, GreenletExit) or (isinstance(error, SystemExit) and not begun):
            pass  # the request has no answer, or half of one, as gunicorn has it
        elif not begun:
            self._say_error(req, sock, addr, error, empty=req.method == "HEAD")
        else:
            self.log.exception("Error handling request")
            try:
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            except OSError:
                pass

    def _answered(self, response: Any, req: Any, environ: Any) -> None:
        try:
            if self._post_request is not None:
                self._post_request(self, req, environ, response)
        except Exception:
            self.log.exception("Exception in post_request hook")

    # errors

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Called by gunicorn's own loop for HTTP/2 and what may become it."""
        self._say_error(req, client, addr, exc, empty=req is not None and req.method == "HEAD")

    def _say_error(
        self, req: Any, client: Any, addr: Any, error: BaseException, *, empty: bool
    ) -> None:
        """Log an error, and answer with gunicorn's page for it. empty: without a body."""
        page: Any = _Page()
        # gunicorn takes any SSLError for the client's, but that is dealt with by now
        known = Exception() if isinstance(error, ssl.SSLError) else error
        super().handle_error(req, page, addr, known)
        self._send_page(page.data, client, empty=empty)

    def _refuse(self, error: ClientDisconnected, client: Any, *, empty: bool) -> None:
        """Say that a request did not come whole: the client may have closed but its own side."""
        page: Any = _Page()
        util.write_error(page, error.code, error.name, "")
        self._send_page(page.data, client, empty=empty)

    def _send_page(self, page: bytes, client: Any, *, empty: bool) -> None:
        if empty:  # RFC 9110, section 9.3.2
            page = page[: page.index(b"\r\n\r\n") + 4]
        try:
            client.settimeout(0)
            client.sendall(page)
        except OSError as error:
            self.log.debug("Failed to send error message. %r", error)
        else:
            # with unread bytes a close is a reset, which can overtake the page
            util.close_graceful(client)

    def _park(
        self,
        subscription: SubscriptionBody,
        response: WorkerResponse,
        req: Any,
        environ: Any,
        start: datetime | None,
    ) -> None:
        """Send what a subscription has so far, and keep the socket, but not the greenlet."""

        def done(sent: int) -> None:
            response.sent = sent
            if start is not None:
                self.log.access(response, req, environ, datetime.now() - start)
            self._answered(response, req, environ)

        listened = start is not None or self._post_request is not None
        response.force_close()
        try:
            subscription.park(response, response.sock.detach, done if listened else None)
        except GreenletExit:
            pass  # the worker stops, and the subscriber has ended
        except Exception:
            self.log.exception("Error parking a subscription")
        raise _Parked
