"""StreamWorker: gunicorn's gevent worker, for streams.

    gunicorn -k vento_wsgi.server.StreamWorker module:app

Any WSGI application runs on it. Parsing, environ and headers are gunicorn's own; what differs
is how a response is written (see wire.py), how the worker stops (see drain.py), and that an
idle connection costs no timer: the clock ends those that are idle for too long, and a worker
that stops ends those that wait between two requests.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import sys
import time
from datetime import datetime
from typing import Any

import gevent
from gevent import GreenletExit, get_hub, getcurrent
from gevent.monkey import get_original
from gunicorn import util
from gunicorn.config import PostRequest
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.ggevent import GeventWorker

from ..broker.feed import Feed
from ..clock import clock
from ..keys import CONNECTION, DRAIN, PARK
from ..policies import SEND_TIMEOUT
from .boot import prepare
from .drain import STEP, Drain
from .reading import Parser, Reader, Settings
from .status import Status
from .watchdog import Watchdog
from .wire import Wire

__all__ = ["StreamWorker"]

BLOCK_LIMIT = 1.0
"""Seconds without a turn of the loop that are logged, unless $VENTO_BLOCK_LIMIT says otherwise."""

SETTLED = 1.0
"""Seconds after which a connection without a request, in a worker that stops, will have none."""

DRAIN_WINDOW = 3.0
"""Seconds over which event streams end, unless $VENTO_DRAIN_WINDOW says otherwise."""


_CONNECTION_ERRORS = (BrokenPipeError, ConnectionResetError, NoMoreData, ssl.SSLError)
"""What reading from and writing to a client that leaves raises; gunicorn knows what to do."""


_NO_HOOK = PostRequest.default


def _name(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{os.fsdecode(address)}"


class _Idle(BaseException):
    """Thrown into a greenlet whose connection waits for a request, to close it."""


class _Parked(BaseException):
    """The socket of a request is another's now."""


class StreamWorker(GeventWorker):
    """A gevent worker whose responses take few sends and whose streams end well."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._alive = True
        self._drain = Drain(float(os.environ.get("VENTO_DRAIN_WINDOW", DRAIN_WINDOW)))
        self._idle: dict[Any, Reader] = {}
        self._until = 0.0
        super().__init__(*args, **options)
        self.cfg = Settings(self.cfg)

    @property
    def alive(self) -> bool:
        """Cleared by gunicorn, from wherever it decides that this worker stops."""
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        stops = self._alive and not alive
        self._alive = alive
        if stops and self.booted:
            # this may be a signal handler: the loop does the rest
            get_hub().loop.run_callback_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._drain.draining:
            return
        self._until = time.monotonic() + self.cfg.graceful_timeout
        self._drain.begin(get_hub().loop, self.cfg.graceful_timeout)
        self._close_idle(time.monotonic() - SETTLED)

    def _close_idle(self, before: float) -> None:
        """Close connections that wait between two requests, or are open since `before` unused."""
        poll = get_original("select", "poll")()
        for greenlet, reader in tuple(self._idle.items()):
            if reader.begun or not (reader.kept or reader.since <= before):
                continue
            poll.register(reader.sock, select.POLLIN)
            arrived = poll.poll(0)
            poll.unregister(reader.sock)
            if not arrived:
                greenlet.throw(_Idle)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        prepare(self)

    def run(self) -> None:
        ticker = clock(cooperative=True)
        ticker.add(self)
        if limit := float(os.environ.get("VENTO_BLOCK_LIMIT", BLOCK_LIMIT)):
            ticker.add(Watchdog(limit))
        Wire.send_timeout = float(os.environ.get("VENTO_SEND_TIMEOUT", SEND_TIMEOUT)) or None
        status = self._status()
        status.open()
        try:
            super().run()
            self._stop()  # gunicorn may be here before the loop
            # parked sockets are in no pool that gunicorn would wait for
            self._await_streams(self._until)
            self._drain.end()
            self._await_streams(time.monotonic() + SETTLED)  # what on_end does
        finally:
            status.close()

    def _await_streams(self, until: float) -> None:
        while self._drain.streams and time.monotonic() < until:
            self.notify()
            gevent.sleep(STEP)

    def _status(self) -> Status:
        about = {
            "master": os.getppid(),
            "worker": os.getpid(),
            "name": self.cfg.proc_name,
            "listening": [_name(listener.getsockname()) for listener in self.sockets],
        }
        return Status(self._drain, about, self.log)

    def tick(self, now: float) -> None:
        """Called by the clock: close connections that have been idle for too long."""
        longest = self.cfg.keepalive or math.inf
        for greenlet, reader in tuple(self._idle.items()):
            if now - reader.since <= longest:
                break  # they are in the order in which they began to wait
            greenlet.throw(_Idle)
        if self._drain.draining:
            self._close_idle(now - SETTLED)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        if "h2" in self.cfg.http_protocols:
            super().handle(listener, client, addr)
            return
        client.setblocking(1)
        req: Any = None
        try:
            if isinstance(client, ssl.SSLSocket) and not self.cfg.do_handshake_on_connect:
                client.do_handshake()
            parser = Parser(self.cfg, client, addr)
            listener_name = listener.getsockname()
            proxy_protocol_info: Any = {}
            while True:
                req = None
                req = self._next(parser)
                if req.proxy_protocol_info:
                    proxy_protocol_info = req.proxy_protocol_info
                else:
                    req.proxy_protocol_info = proxy_protocol_info
                self.handle_request(listener_name, req, client, addr)
        except (_Idle, _Parked, StopIteration, NoMoreData) as reason:
            self.log.debug("Closing connection. %r", reason)
        except ssl.SSLError as error:
            if error.args[0] != ssl.SSL_ERROR_EOF:
                self.handle_error(req, client, addr, error)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.exception("Socket error processing request.")
        except BaseException as error:
            self.handle_error(req, client, addr, error)
        finally:
            util.close(client)

    def _next(self, parser: Parser) -> Any:
        """The next request of a connection. Raises StopIteration when there will be none."""
        greenlet, reader = getcurrent(), parser.unreader
        reader.await_request()
        self._idle[greenlet] = reader
        try:
            return parser.__next__()
        finally:
            del self._idle[greenlet]
            reader.kept = True

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        try:
            return self._answer(listener_name, req, sock, addr)
        except (GreenletExit, SystemExit):
            raise StopIteration from None  # closes: the request has no answer, or half of one

    def _answer(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        start = datetime.now()
        environ: Any = {}
        response: Any = None
        try:
            self.cfg.pre_request(self, req)
            response, environ = wsgi.create(
                req, sock, addr, listener_name, self.cfg, response_class=Wire
            )
            environ["wsgi.multithread"] = True
            environ[DRAIN] = self._drain
            environ[CONNECTION] = response
            if not self.cfg.is_ssl and req.version == (1, 1):
                environ[PARK] = True
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            if not self.alive or not self.cfg.keepalive:
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            if self.is_already_handled(body):
                return False
            if response.chunked and (feed := Feed.of(body)) is not None:
                self._park(feed, response, req, environ, start)
            try:
                if isinstance(body, environ["wsgi.file_wrapper"]):
                    response.write_file(body)
                else:
                    response.write_all(body)
                response.close()
            finally:
                if not response.headers_sent:
                    response.sent = 0
                self.log.access(response, req, environ, datetime.now() - start)
                if hasattr(body, "close"):
                    body.close()
            if response.should_close() or not self.alive:
                raise StopIteration
        except (StopIteration, GreenletExit, _Parked, *_CONNECTION_ERRORS):
            raise
        except OSError as error:
            if response is not None and response.headers_sent:
                raise
            # it is not the connection that failed: answer, and say so
            self.handle_error(req, sock, addr, error)
            raise StopIteration from None
        except BaseException:  # gevent.Timeout is no Exception
            if response is None or not response.headers_sent:
                raise
            self.log.exception("Error handling request")
            try:
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            except OSError:
                pass
            raise StopIteration from None
        finally:
            if not isinstance(sys.exc_info()[1], _Parked):
                self._answered(response, req, environ)
        return True

    def _answered(self, response: Any, req: Any, environ: Any) -> None:
        try:
            self.cfg.post_request(self, req, environ, response)
        except Exception:
            self.log.exception("Exception in post_request hook")

    def _park(self, feed: Feed, response: Wire, req: Any, environ: Any, start: datetime) -> None:
        """Send what a subscription has so far, and keep the socket, but not the greenlet."""

        def done(sent: int) -> None:
            response.sent = sent
            self.log.access(response, req, environ, datetime.now() - start)
            self._answered(response, req, environ)

        listened = self.log.access_log_enabled or self.cfg.post_request is not _NO_HOOK
        response.force_close()
        response.send_timeout = feed.policies.send_timeout or None
        try:
            feed.park(response.write, response.sock.detach, done if listened else None)
        except GreenletExit:
            pass  # the worker stops, and the slot has ended it
        except Exception:
            self.log.exception("Error parking a subscription")
        raise _Parked
