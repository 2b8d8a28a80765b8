"""limit_streams: limit how many streams are open at the same time.

    app.use(limit_streams(per_worker=5000, per_client=6))
    router.get("/events", events, middleware=[limit_streams(per_client=2)])

A request beyond a limit gets a 503 with Retry-After, before its handler runs. Each use of the
middleware has its own count, of the streams in its own worker process. A response that is not a
stream counts only while its handler runs.

A client is identified by REMOTE_ADDR: by an IPv4 address, or by the /64 network of an IPv6
address, since one client usually owns all 2**64 addresses of its network. Behind a proxy every
request has the address of the proxy, so all users would count as one client. werkzeug's ProxyFix
replaces it by the address that the proxy passes on; ``x_for`` is the number of proxies in front
of the application:

    from werkzeug.middleware.proxy_fix import ProxyFix
    application = ProxyFix(app, x_for=1)

Requests over a Unix socket have no address. They come from a proxy as well; without ProxyFix
`per_client` does not limit them. In both cases a warning is logged, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as WerkzeugResponse

from ..context import Context
from ..logs import logger
from ..routing import Middleware, Next

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["limit_streams"]

log = logger(__name__)

RETRY_AFTER = 5
"""Seconds until a refused client should try again."""

_ADVICE = "Put werkzeug's ProxyFix around the application; its x_for is the number of proxies."


def limit_streams(
    *, per_worker: int | None = None, per_client: int | None = None, retry_after: int = RETRY_AFTER
) -> Middleware:
    """A middleware that refuses further streams; see the module for clients behind a proxy.

    per_worker, per_client: streams that may be open, in this process and for each client.
    retry_after: seconds until a refused client should try again.

    Raises ValueError if a limit is below 1, or if there is none.
    """
    for name, limit in (("per_worker", per_worker), ("per_client", per_client)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} is 1 or more, not {limit!r}")
    if per_worker is None and per_client is None:
        raise ValueError("limit_streams takes per_worker, per_client or both")
    places = _Places(per_worker, per_client)
    warnings: list[Callable[..., None]] = [log.warning]  # empty once a warning was logged

    def warn(message: str, *values: object) -> None:
        if warnings:
            warnings.pop()(f"limit_streams: {message} {_ADVICE}", *values)

    def limited(ctx: Context, next: Next) -> WerkzeugResponse:
        client = _client(ctx.environ.get("REMOTE_ADDR", ""))
        if not client and per_client is not None:
            warn("requests have no address (a Unix socket?), so per_client does not limit them.")
        leave = places.take(client)
        if leave is None:
            if places.full_for(client) and _is_proxy(ctx.environ):
                warn(
                    "%s has reached per_client=%d, but it seems to be a proxy, whose users all "
                    "count as one client.",
                    client,
                    per_client,
                )
            raise ServiceUnavailable("Too many streams are open.", retry_after=retry_after)
        try:
            response = next()
        except BaseException:
            leave()
            raise
        if response.is_streamed:
            response.call_on_close(leave)
        else:
            leave()
        return response

    return limited


class _Places:
    """The open streams of all clients and of each. Its methods may be called in any thread."""

    def __init__(self, per_worker: int | None, per_client: int | None) -> None:
        self._per_worker = per_worker
        self._per_client = per_client
        self._everyone: set[object] = set()
        self._clients: dict[str, set[object]] = {}
        self._made: dict[str, threading.Lock] = {}

    @property
    def _lock(self) -> threading.Lock:
        """The lock, made at the first request.

        The application may be created before gevent patches `threading`. A lock made then is a
        native one, which blocks all greenlets. setdefault() is atomic, so there is one lock only.
        """
        try:
            return self._made["lock"]
        except KeyError:
            return self._made.setdefault("lock", threading.Lock())

    def full_for(self, client: str) -> bool:
        """Whether a client is at its own limit."""
        if self._per_client is None or not client:
            return False
        return len(self._clients.get(client, ())) >= self._per_client

    def take(self, client: str) -> Callable[[], None] | None:
        """Count one more stream of `client`; "" is an unknown one, without a limit of its own.

        Returns a function that removes the stream again (further calls do nothing), or None if a
        limit is reached.
        """
        place = object()
        with self._lock:
            if self._per_worker is not None and len(self._everyone) >= self._per_worker:
                return None
            if self.full_for(client):
                return None
            self._everyone.add(place)
            self._clients.setdefault(client, set()).add(place)

        def leave() -> None:
            with self._lock:
                self._everyone.discard(place)
                own = self._clients.get(client, set())
                own.discard(place)
                if not own:
                    self._clients.pop(client, None)

        return leave


def _client(address: str) -> str:
    """The client of an address: an IPv4 address itself, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    found = _parsed(address)
    if not isinstance(found, IPv6Address):
        return address if found is None else str(found)
    return f"{IPv6Address(found.packed[:8] + bytes(8))}/64"


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address)
    except ValueError:
        return None
    # a socket for both families reports IPv4 clients as ::ffff:192.0.2.1
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _is_proxy(environ: WSGIEnvironment) -> bool:
    """Whether a request seems to come from a proxy in front of this server.

    True if its address is not a public one, and a forwarding header names another client first.
    """
    address = environ.get("REMOTE_ADDR", "")
    sent = environ.get("HTTP_X_FORWARDED_FOR") or environ.get("HTTP_FORWARDED") or ""
    found, first = _parsed(address), sent.partition(",")[0]
    return found is not None and not found.is_global and bool(first) and address not in first
