"""compress: bodies in gzip, and in brotli and zstd where these are installed.

    app.use(compress())
    app.use(compress(types=["application/json"], files=True, level={"gzip": 9}))

The client's Accept-Encoding, with its weights (RFC 9110, section 12.5.3), selects one of gzip,
``br`` (``pip install vento_wsgi[brotli]``) and ``zstd`` (``vento_wsgi[zstd]``). Streams stay
live: the client can decode each write, and so each event, when it arrives. Not coded are

    responses that are not of `types`, or have ``Cache-Control: no-transform``
    responses with a Content-Encoding or a digest
    ranges (206), and responses without a body
    bodies that are known to be shorter than `minimum`
    open files, unless `files` is true: sendfile costs next to nothing, and coding does

A coded response has a Content-Encoding, a weak ETag, and no Accept-Ranges. It has a
Content-Length only if it was short enough to be coded beforehand. If-None-Match with its ETag
works. Every response that could have been coded has ``Vary: Accept-Encoding``.

An open stream holds the memory of its coding, 36 KB for gzip; see vento_wsgi.bodies.codings. A
broker's subscription is not parked if it is coded: it is an ordinary stream with a greenlet, of
some 60 KB, and a parked one takes less than one. With thousands of subscribers, leave
``text/event-stream`` out of `types`.

Subscribers of a topic cannot share a coded block. Chromium and curl decode only the first of
joined members of gzip or streams of br. They decode joined frames of zstd and fully flushed
blocks of deflate, but a single event has nothing to repeat: events of 100 bytes had 101 and 90 %
of their size, tokens 136 and 124 %, and 26 and 36 % in a stream with a coding of its own.

Do not put secrets into a body with text from the request: the length of the coded body can give
them away, also under TLS (BREACH). ``Cache-Control: no-transform`` prevents it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from werkzeug.http import parse_accept_header
from werkzeug.wrappers import Response as WerkzeugResponse

from ..bodies.codings import Encoder, encoders
from ..bodies.sources import READ_SIZE, Chunks
from ..context import Context
from ..response import Response, vary
from ..routing import Middleware, Next

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["MINIMUM", "TYPES", "compress"]

MINIMUM = 512
"""Bytes. A shorter body fits into one packet, coded or not."""

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
"""Media types of text. Pictures, films and archives are compressed already."""

LIVE = ("gzip", "zstd", "br")
WHOLE = ("br", "zstd", "gzip")
"""The order of preference if the client has none. For streams it is the least memory, and for
known bodies the fewest bytes. Decoders of br are also bad for streams: they hold back what does
not fit into the client's buffer until more arrives.
"""

_OF_BYTES = frozenset(("content-range", "content-digest", "content-md5", "digest", "repr-digest"))
"""Headers that describe the bytes before coding: a response with one of them is not coded."""


def compress(
    *,
    level: Mapping[str, int] | None = None,
    minimum: int = MINIMUM,
    types: Iterable[str] = TYPES,
    files: bool = False,
) -> Middleware:
    """A middleware that compresses responses; see above.

    level: the level of a coding by its name, as in ``{"gzip": 9}``. minimum: in bytes.
    types: media types, in which ``*`` matches anything. files: whether open files are coded.

    Raises ValueError.
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
        # several ranges have this type, whatever the type of the file is
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
        if status == 304:  # stands for a response that would be coded
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
    """A function that selects the coding for an Accept-Encoding; equal weights go by `order`."""
    names = [name for name in order if name in known]

    @lru_cache(maxsize=64)  # browsers send a few values; the bound is for attackers
    def choose(accepted: str | None) -> str | None:
        accept = parse_accept_header(accepted)
        weights = {name.lower(): weight for name, weight in reversed(list(accept))}
        weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0)))
        best = max(names, key=lambda name: weights.get(name, weights.get("*", 0)))
        weight = weights.get(best, weights.get("*", 0))
        return best if weight > 0 and weight >= weights.get("identity", 0) else None

    return choose


def _weaken(response: Response) -> None:
    """Make the ETag weak: the bytes differ from those it was made for, and mean the same."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        response.headers["ETag"] = f"W/{tag}"
