"""compress: compress responses with gzip, and with brotli and zstd if they are installed.

    app.use(compress())
    app.use(compress(types=["application/json"], files=True, level={"gzip": 9}))

The coding is chosen by Accept-Encoding and its weights (RFC 9110, section 12.5.3) among gzip,
``br`` (``pip install vento_wsgi[brotli]``) and ``zstd`` (``vento_wsgi[zstd]``). Streams stay live:
after each write the client can decode everything that was sent, and so each event of an event
stream. These responses are not compressed:

    media types that are not in `types`
    responses with ``Cache-Control: no-transform``, a Content-Encoding or a digest
    ranges (206), and responses without a body
    bodies whose length is known to be below `minimum`
    open files, unless `files` is true: sendfile costs almost no CPU time, compression a lot

A compressed response has a Content-Encoding, no Accept-Ranges, and a weak ETag, with which
If-None-Match still works. It has a Content-Length only if it was short enough to be compressed at
once. All responses that this middleware might have compressed have ``Vary: Accept-Encoding``.

A stream holds the memory of its encoder while it is open: 36 KB for gzip; see
vento_wsgi.bodies.codings. A compressed subscription cannot be parked, so it also needs a greenlet:
some 60 KB in all, where a parked subscriber takes less than 1 KB. With thousands of subscribers,
leave ``text/event-stream`` out of `types`.

Compressing each event once for all subscribers of a topic does not work. Chromium and curl decode
only the first of several joined gzip members or br streams. They do decode joined zstd frames and
fully flushed deflate blocks, but a single event contains little repetition: events of 100 bytes
came to 101 % (zstd) and 90 % (deflate) of their size, tokens to 136 % and 124 %. In a stream with
an encoder of its own, events come to 26 % and tokens to 36 %.

Do not put secrets into a body together with text that the request chose: the compressed length
reveals them, even under TLS (BREACH). ``Cache-Control: no-transform`` excludes such a response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from werkzeug.http import parse_accept_header
from werkzeug.wrappers import Response as WerkzeugResponse

from ..bodies.codings import encoders
from ..bodies.sources import READ_SIZE, Chunks
from ..context import Context
from ..response import Response, vary
from ..routing import Middleware, Next
from ..streaming.stream import Encoder

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["MINIMUM", "TYPES", "compress"]

MINIMUM = 512
"""Bytes of a body below which compression saves no packet."""

TYPES = (
    "text/*",
    "application/javascript",
    "application/json",
    "application/wasm",
    "application/x-ndjson",
    "application/xml",
    "image/svg+xml",
    "*+json",
    "*+xml",
)
"""Media types of text. Images, videos and archives are already compressed."""

LIVE = ("gzip", "zstd", "br")
WHOLE = ("br", "zstd", "gzip")
"""The order of preference among codings to which the client gives the same weight.

LIVE, for streams: the least memory first. br is last also because decoders of br may hold back
bytes that do not fit into the client's buffer until more input comes. WHOLE, for bodies that are
known: the smallest result first.
"""

_OF_BYTES = frozenset(("content-range", "content-digest", "content-md5", "digest", "repr-digest"))
"""Headers that describe the exact bytes of the body, and so forbid to change them."""


def compress(
    *,
    level: Mapping[str, int] | None = None,
    minimum: int = MINIMUM,
    types: Iterable[str] = TYPES,
    files: bool = False,
) -> Middleware:
    """A middleware that compresses responses; see the module.

    level: the compression level of each coding, by name: ``{"gzip": 9}``.
    minimum: bytes of a body, at least.
    types: media types, in which ``*`` matches any text.
    files: whether open files are compressed.

    Raises ValueError if an option is invalid.
    """
    if type(minimum) is not int or minimum < 0:
        raise ValueError(f"minimum is a number of bytes, not {minimum!r}")
    if isinstance(types, str) or not all("/" in kind or "+" in kind for kind in (*types,)):
        raise ValueError(f'types are media types, like ["text/*", "*+json"], not {types!r}')
    matches = re.compile("|".join(translate(kind.lower()) for kind in types) or r"(?!)").match
    makers = encoders(level or {})
    live, whole = _chooser(LIVE, makers), _chooser(WHOLE, makers)

    def code(response: Response, environ: WSGIEnvironment) -> Callable[[], Encoder] | None:
        headers, status = response.headers, response.status_code
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        # a response of several ranges does not show the type of the file, so it needs Vary as well
        several = status == 206 and kind == "multipart/byteranges"
        if not (matches(kind) or several) or (response.is_file and not files):
            return None
        names = {name.lower(): value for name, value in headers}
        if "no-transform" in names.get("cache-control", "").lower():
            return None
        if status < 200 or status == 204 or "content-encoding" in names:
            return None
        vary(headers, "Accept-Encoding")
        known = response.is_sequence
        choose = whole if known else live
        name = choose(environ.get("HTTP_ACCEPT_ENCODING"))
        if name is None or status == 206 or not _OF_BYTES.isdisjoint(names):
            return None
        if status == 304:  # its headers are those of the response that would be compressed
            _weaken(response)
            return None
        length = headers.get("Content-Length", type=int)
        if length is not None and length < minimum:
            return None
        encoder = partial(makers[name], response.event_stream)
        if known:
            body = response.get_data()
            if len(body) > READ_SIZE:
                response.response = Chunks(
                    body[at : at + READ_SIZE] for at in range(0, len(body), READ_SIZE)
                )
            else:
                coded = encoder().finish(body)
                if len(coded) >= len(body):
                    return None
                response.set_data(coded)
        if not response.is_sequence:
            headers.pop("Content-Length", None)
        headers["Content-Encoding"] = name
        headers.pop("Accept-Ranges", None)
        _weaken(response)
        return encoder

    def compressed(ctx: Context, next: Next) -> WerkzeugResponse:
        ctx.on_response(offer)
        return next()

    def offer(response: WerkzeugResponse) -> None:
        if isinstance(response, Response):
            response.choose_encoder = partial(code, response)

    return compressed


def _chooser(
    order: tuple[str, ...], known: Mapping[str, object]
) -> Callable[[str | None], str | None]:
    """The function that chooses a coding for an Accept-Encoding; `order` decides between equals."""
    names = [name for name in order if name in known]

    @lru_cache(maxsize=64)  # browsers send a few different values; the limit is for attackers
    def choose(accepted: str | None) -> str | None:
        accept = parse_accept_header(accepted)
        weights = {name.lower(): weight for name, weight in reversed(list(accept))}
        weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0)))
        best = max(names, key=lambda name: weights.get(name, weights.get("*", 0)))
        weight = weights.get(best, weights.get("*", 0))
        return best if weight > 0 and weight >= weights.get("identity", 0) else None

    return choose


def _weaken(response: Response) -> None:
    """Make the ETag weak: the compressed bytes differ from those that it was made for."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        response.headers["ETag"] = f"W/{tag}"
