"""cors: which pages of other origins may read the responses, by the WHATWG Fetch standard.

    app.use(cors(origins=["https://app.example.com"], credentials=True, headers=["X-Token"]))

It belongs around the whole application: only there does it see preflights, and every response,
also 404s and 500s, says that the page may read it. `origins` is one of

    "https://app.example.com"             an origin, as browsers send it, or several in a list
    "*"                                   every page, but never with credentials
    re.compile(r"https://.*\\.example\\.com")   what matches it from end to end
    function                              called with the origin, says whether it is allowed

A preflight is answered 204, or 403 with the reason, and goes no further. A request that is no
preflight is never refused: it is the browser that keeps its response from the page. Responses
that depend on the origin say ``Vary: Origin``, those to requests without one as well.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as WerkzeugResponse

from ..context import Context
from ..response import Response, vary
from ..routing import Middleware, Next

__all__ = ["HEADERS", "cors"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SAFE_METHODS = frozenset(("GET", "HEAD", "POST"))
"""CORS-safelisted methods, which a browser sends whatever a preflight says."""

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
"""Headers that pages may always send.

These are the safelisted ones with any value, Last-Event-ID and Range to resume a stream, and
the others that EventSource polyfills set: ``Cache-Control: no-cache`` and
``X-Requested-With: XMLHttpRequest``.
"""

ANY = ("*",)

MAX_AGE = 600
"""Seconds that a browser keeps the answer to a preflight: without it, for 5 s."""

Origins = str | Iterable[str] | re.Pattern[str] | Callable[[str], bool]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
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
    """A middleware that lets pages of `origins` read the responses; see above.

    credentials: whether they may send cookies: ``fetch(…, {credentials: "include"})``,
        ``new EventSource(…, {withCredentials: true})``.
    methods, headers: what they may send; headers beside HEADERS. ``"*"``: whatever they ask for.
    expose: response headers that they may read, beside the safelisted ones. ``"*"``: all.
    max_age: seconds for which a preflight's answer holds; None leaves it to the browser.

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
        """Say on a response, whichever it is, who may read it."""
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
            raise Forbidden("CORS: what the preflight asks for is no method or no header.")
        methods = (method,) if may["methods"] == ANY else may["methods"]
        headers = wanted if may["headers"] == ANY else (*HEADERS, *may["headers"])
        answer = Response(status=204)
        answer.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        answer.headers["Access-Control-Allow-Headers"] = ", ".join(headers)
        if max_age is not None:
            answer.headers["Access-Control-Max-Age"] = str(max_age)
        vary(answer.headers, "Access-Control-Request-Method", "Access-Control-Request-Headers")
        return answer

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
        matches = origins.fullmatch  # the whole of it: a prefix is anybody's to register
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
    """Raise ValueError on what is never the value of an Origin header."""
    if not isinstance(origin, str):
        raise ValueError(f"an origin is text, a pattern or a function, not {origin!r}")
    if origin == "null":
        if credentials:
            raise ValueError('"null" is the origin of any sandboxed page: not with credentials')
        return
    if "*" in origin:
        raise ValueError(f'{origin!r}: "*" stands alone; for many origins use re.compile(…)')
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
        raise ValueError(f'{origin!r} is no origin: "https://app.example.com", with its scheme')
    if origin != right:
        raise ValueError(f"{origin!r} is never sent as an origin: write {right!r}")


def _tokens(name: str, values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str) and values != "*":
        raise ValueError(f'{name} is a sequence of names, [{values!r}], or "*"')
    found = tuple(values)
    for value in found:
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise ValueError(f"{name} has {value!r}, which is no name")
        if name == "methods" and value != value.upper():
            raise ValueError(f"methods are upper case to browsers: {value.upper()!r}")
        if value == "*" and len(found) > 1:
            raise ValueError(f'"*" stands alone: {name}="*"')
    return found
