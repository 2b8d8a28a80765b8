"""compress: bodies in gzip, and in brotli and zstd where these are installed.

    app.use(compress())
    app.use(compress(types=["application/json"], files=True, level={"gzip": 9}))

The client's Accept-Encoding decides, with its weights (RFC 9110, section 12.5.3), among gzip,
``br`` (``pip install vento_wsgi[brotli]``) and ``zstd`` (``vento_wsgi[zstd]``). Streams stay
live: whatever leaves at a time can be decoded at that time, each event of an event stream as
well. Left as they are

    what is not of `types`, or says ``Cache-Control: no-transform``
    what has a Content-Encoding or a digest already
    ranges (206), and whatever has no body
    bodies that are known to be shorter than `minimum`
    open files, unless `files`: their sendfile costs next to nothing, compressing them does

A coded response says so in Content-Encoding, has no Content-Length unless it was short enough to
be coded beforehand, no Accept-Ranges, and a weak ETag; If-None-Match finds it all the same. All
that could have been coded says ``Vary: Accept-Encoding``.

A stream holds its coding's memory while it is open: 36 KB of gzip; see vento_wsgi.bodies.codings. A
subscription to a broker that is coded is an ordinary stream, with a greenlet and a coding of its
own, some 60 KB, where a parked one has less than one: where there are thousands of them, leave
``text/event-stream`` out of `types`. One coded block for all subscribers of a topic is no way out.
Joined members of gzip and streams of br are not decoded beyond the first, by Chromium and curl
alike; frames of zstd and fully flushed blocks of deflate are, but an event by itself has nothing
to repeat: events of 100 bytes became 101 and 90 % of that, tokens 136 and 124 %, where a stream
with a coding of its own has 26 and 36 %.

Secrets do not belong in a body with text that the request chose: its length tells of them, also
under TLS (BREACH). ``Cache-Control: no-transform`` keeps such a response as it is.
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
"""Bytes below which a body leaves in the same one packet, coded or not."""

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
"""What is text, more or less; pictures, films and archives are compressed already."""

LIVE = ("gzip", "zstd", "br")
WHOLE = ("br", "zstd", "gzip")
"""What is chosen where the client has no preference: for streams what takes the least memory, for
bodies that are known the fewest bytes. br is no friend of streams in other ways, too: its
decoders keep back what does not fit in their client's buffer, until there is more to decode.
"""

_OF_BYTES = ("Content-Range", "Content-Digest", "Content-MD5", "Digest", "Repr-Digest")
"""Headers that are about the very bytes which the handler has made."""


def compress(
    *,
    level: Mapping[str, int] | None = None,
    minimum: int = MINIMUM,
    types: Iterable[str] = TYPES,
    files: bool = False,
) -> Middleware:
    """A middleware that compresses responses; see above.

    level: how hard a coding tries, by its name, as in ``{"gzip": 9}``.
    minimum: bytes. types: media types, ``*`` in them stands for anything. files: open files, too.

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
        # several ranges have this type whatever the type of the whole, which they vary with
        several = status == 206 and kind == "multipart/byteranges"
        if not (matches(kind) or several) or (response.is_file and not files):
            return None
        if "no-transform" in headers.get("Cache-Control", "").lower():
            return None
        if status < 200 or status == 204 or "Content-Encoding" in headers:
            return None
        vary(headers, "Accept-Encoding")
        known = response.is_sequence
        choose = whole if known else live
        name = choose(environ.get("HTTP_ACCEPT_ENCODING"))
        if name is None or status == 206 or any(field in headers for field in _OF_BYTES):
            return None
        if status == 304:  # is about the response that would have been coded
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
    """What finds the coding that an Accept-Encoding wants most, in case of doubt by `order`."""
    names = [name for name in order if name in known]

    @lru_cache(maxsize=64)  # browsers have a few, and attackers shall not have many
    def choose(accepted: str | None) -> str | None:
        accept = parse_accept_header(accepted)
        weights = {name.lower(): weight for name, weight in reversed(list(accept))}
        weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0)))
        best = max(names, key=lambda name: weights.get(name, weights.get("*", 0)))
        weight = weights.get(best, weights.get("*", 0))
        return best if weight > 0 and weight >= weights.get("identity", 0) else None

    return choose


def _weaken(response: Response) -> None:
    """Its bytes are not those that the ETag was given for, though they mean the same."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        response.headers["ETag"] = f"W/{tag}"
