"""cors: let pages of other origins read the responses, by the WHATWG Fetch standard.

    app.use(cors(origins=["https://app.example.com"], credentials=True, headers=["X-Token"]))

Use it on the whole application. Only there does it see preflights, and can mark every response,
404s and 500s included, as readable by the page. `origins` is one of

    "https://app.example.com"             an origin, as browsers send it, or several in a list
    "*"                                   every page, but never with credentials
    re.compile(r"https://.*\\.example\\.com")   every origin that the whole pattern matches
    function                              called with the origin, returns whether it is allowed

A preflight is answered by 204, or by 403 with the reason, and does not reach a handler. Other
requests are never refused: the browser itself hides their responses from the page. Responses that
depend on the origin have ``Vary: Origin``, also if the request had no origin.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as WerkzeugResponse

from ..context import Context
from ..http_syntax import TOKEN
from ..response import Response, vary
from ..routing import Middleware, Next

__all__ = ["HEADERS", "cors"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SAFE_METHODS = frozenset(("GET", "HEAD", "POST"))
"""CORS-safelisted methods: a browser sends them even if a preflight does not list them."""

HEADERS = (
    "Accept",
    "Accept-Language",
    "Cache-Control",
    "Content-Language",
    "Content-Type",
    "Last-Event-ID",
    "Range",
    "X-Requested-With",
)
"""Request headers that pages may always send.

These are the safelisted ones with any value, Last-Event-ID and Range to resume a stream or
download, and the headers that EventSource polyfills set, Cache-Control and X-Requested-With.
"""

ANY = ("*",)

MAX_AGE = 600
"""Seconds that a browser may cache the response to a preflight; its own default is 5 s."""

Origins = str | Iterable[str] | re.Pattern[str] | Callable[[str], bool]

_TOKEN = re.compile(TOKEN)
_PORTS = {"http": 80, "https": 443}


def cors(
    origins: Origins,
    *,
    credentials: bool = False,
    methods: Iterable[str] = METHODS,
    headers: Iterable[str] = (),
    expose: Iterable[str] = (),
    max_age: int | None = MAX_AGE,
) -> Middleware:
    """A middleware that lets pages of `origins` read the responses; see the module.

    credentials: whether pages may send cookies: ``fetch(…, {credentials: "include"})``,
        ``new EventSource(…, {withCredentials: true})``.
    methods: the methods that pages may use. ``"*"``: any.
    headers: request headers that pages may send, in addition to HEADERS. ``"*"``: any.
    expose: response headers that pages may read, in addition to the safelisted ones. ``"*"``: all.
    max_age: seconds that a browser may cache a preflight; None leaves it to the browser.

    Raises ValueError on an origin that no browser sends, and on ``"*"`` with credentials.
    """
    may = {
        name: _tokens(name, values)
        for name, values in (("methods", methods), ("headers", headers), ("expose", expose))
    }
    if not (isinstance(origins, (str, re.Pattern)) or callable(origins)):
        origins = tuple(origins)
    everyone = origins in ("*", ANY)
    stars = ["origins"] * everyone + [name for name, values in may.items() if values == ANY]
    if stars and credentials:
        raise ValueError(
            f'{" and ".join(stars)} cannot be "*" with credentials: any page could act for '
            "whoever is logged in; name what is allowed"
        )
    if max_age is not None and (type(max_age) is not int or max_age < 0):
        raise ValueError(f"max_age is a whole number of seconds, not {max_age!r}")
    allowed = (lambda _: True) if everyone else _allowed(origins, credentials=credentials)
    may_send = {name.lower() for name in (*HEADERS, *may["headers"])}

    def share(origin: str | None, response: WerkzeugResponse) -> None:
        """Set the headers that let the page of `origin` read a response."""
        sent = response.headers
        if not everyone:
            vary(sent, "Origin")
        if "Access-Control-Allow-Origin" in sent or (not everyone and origin is None):
            return
        sent["Access-Control-Allow-Origin"] = "*" if everyone else origin or ""
        if credentials:
            sent["Access-Control-Allow-Credentials"] = "true"
        if may["expose"] and "Access-Control-Allow-Methods" not in sent:
            sent["Access-Control-Expose-Headers"] = ", ".join(may["expose"])

    def preflight(method: str, wanted: list[str]) -> Response:
        if method not in SAFE_METHODS and method not in may["methods"] and may["methods"] != ANY:
            raise Forbidden(f"CORS: methods do not include {method}.")
        if may["headers"] != ANY and (others := [n for n in wanted if n not in may_send]):
            raise Forbidden(f"CORS: headers do not include {', '.join(others)}.")
        if not all(map(_TOKEN.fullmatch, (method, *wanted))):
            raise Forbidden("CORS: the preflight asks for an invalid method or header name.")
        methods = (method,) if may["methods"] == ANY else may["methods"]
        headers = wanted if may["headers"] == ANY else (*HEADERS, *may["headers"])
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        response.headers["Access-Control-Allow-Headers"] = ", ".join(headers)
        if max_age is not None:
            response.headers["Access-Control-Max-Age"] = str(max_age)
        vary(response.headers, "Access-Control-Request-Method", "Access-Control-Request-Headers")
        return response

    def shared(ctx: Context, next: Next) -> WerkzeugResponse:
        origin = ctx.environ.get("HTTP_ORIGIN")
        reader = origin if origin is not None and allowed(origin) else None
        ctx.on_response(lambda response: share(reader, response))
        method = ctx.environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
        if ctx.method != "OPTIONS" or origin is None or method is None:
            return next()
        if reader is None:
            raise Forbidden(f"CORS: origins do not include {origin}.")
        wanted = ctx.environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").lower().split(",")
        return preflight(method, [name for part in wanted if (name := part.strip())])

    return shared


def _allowed(origins: Origins, *, credentials: bool) -> Callable[[str], bool]:
    if isinstance(origins, re.Pattern):
        matches = origins.fullmatch  # not match(): anybody can register a domain with the prefix
        return lambda origin: matches(origin) is not None
    if callable(origins):
        return origins
    known = frozenset((origins,) if isinstance(origins, str) else origins)
    if not known:
        raise ValueError('cors() takes the origins that may read: ["https://app.example.com"]')
    for origin in known:
        _check(origin, credentials=credentials)
    return known.__contains__


def _check(origin: str, *, credentials: bool) -> None:
    """Raise ValueError if a browser never sends `origin` in an Origin header."""
    if not isinstance(origin, str):
        raise ValueError(f"an origin is text, a pattern or a function, not {origin!r}")
    if origin == "null":
        if credentials:
            raise ValueError('"null" is the origin of any sandboxed page: not with credentials')
        return
    if "*" in origin:
        raise ValueError(f'{origin!r}: "*" must stand alone; for a pattern use re.compile(…)')
    url = urlsplit(origin)
    try:
        port = url.port
    except ValueError:
        port = None
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    right = f"{url.scheme}://{host}"
    if port is not None and port != _PORTS.get(url.scheme):
        right += f":{port}"
    if not url.scheme or not host or not right.isascii():
        raise ValueError(f'{origin!r} is no origin: write it like "https://app.example.com"')
    if origin != right:
        raise ValueError(f"{origin!r} is never sent as an origin: write {right!r}")


def _tokens(name: str, values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str) and values != "*":
        raise ValueError(f'{name} is a sequence of names, [{values!r}], or "*"')
    found = tuple(values)
    for value in found:
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise ValueError(f"{name} has {value!r}, which is not a valid name")
        if name == "methods" and value != value.upper():
            raise ValueError(f"browsers send methods in upper case: write {value.upper()!r}")
        if value == "*" and len(found) > 1:
            raise ValueError(f'"*" must stand alone: {name}="*"')
    return found
