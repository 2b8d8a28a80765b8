"""Content codings: how the pieces of a body become gzip, zstd or br (RFC 9110, section 8.4.1).

A Stream is coded behind everything else that makes it: what the pump gave as one piece,
the opening comment, a heartbeat, an ``error`` event and the drain's ``retry:`` are each
encoded and flushed, so that the client can decode all that it has. A clean end has the
coding's own end, in the last piece wherever that is known. A stream that breaks off has neither
this nor the last chunk of HTTP.

What a stream holds while it is open, measured with JSON events of 110 bytes:

    coding                       event streams                  other streams, and files
    gzip (zlib)                  4 KiB window, 36 KB, to 26 %   32 KiB window, 268 KB
    zstd (zstandard)             16 KiB window, 89 KB, to 31 %  128 KiB window, 1.3 MB
    br (brotli)                  64 KiB window, 302 KB, to 30 % 256 KiB window, 1.9 MB

An event repeats those right before it, and thousands of event streams are open at once: zlib's
largest window and tables would take 101 KB of each, for 24 % in place of 26. So event streams
get the small ones, and gzip before the others where a client takes several; a body that ends
gets the coding that makes it smallest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..streaming.stream import Encoder

__all__ = ["LEVELS", "encoders"]

LEVELS = {"gzip": 6, "zstd": 3, "br": 5}
"""How hard each tries: where, of every one, the next step costs more than it saves."""

SCALES = {"gzip": (1, 9), "zstd": (1, 12), "br": (2, 9)}
"""Levels below find no repetition in small pieces, those above take many times the memory."""


class Gzip:
    """RFC 1952. Memory: 4 << window bits, and 512 << memory level, in bytes."""

    def __init__(self, level: int, *, live: bool) -> None:
        window, memory = (12, 5) if live else (15, 8)
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, 16 + window, memory)

    def encode(self, piece: bytes) -> bytes:
        return self._zlib.compress(piece) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def finish(self, piece: bytes = b"") -> bytes:
        return self._zlib.compress(piece) + self._zlib.flush()


class Zstd:
    """RFC 8878: one frame, of blocks. Browsers take windows up to 8 MB (RFC 9659)."""

    def __init__(self, level: int, *, live: bool) -> None:
        zstandard: Any = import_module("zstandard")
        window, tables = (14, 12) if live else (17, 17)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, window_log=window, hash_log=tables, chain_log=tables
        )
        self._flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._zstd = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def encode(self, piece: bytes) -> bytes:
        coded: bytes = self._zstd.compress(piece) + self._zstd.flush(self._flush)
        return coded

    def finish(self, piece: bytes = b"") -> bytes:
        coded: bytes = self._zstd.compress(piece) + self._zstd.flush()
        return coded


class Brotli:
    """RFC 7932."""

    def __init__(self, level: int, *, live: bool) -> None:
        brotli: Any = import_module("brotli")
        self._brotli = brotli.Compressor(quality=level, lgwin=16 if live else 18)

    def encode(self, piece: bytes) -> bytes:
        coded: bytes = self._brotli.process(piece) + self._brotli.flush()
        return coded

    def finish(self, piece: bytes = b"") -> bytes:
        coded: bytes = self._brotli.process(piece) + self._brotli.finish()
        return coded


_ALL: dict[str, tuple[type[Gzip | Zstd | Brotli], str]] = {
    "gzip": (Gzip, "zlib"),
    "zstd": (Zstd, "zstandard"),
    "br": (Brotli, "brotli"),
}


def encoders(level: Mapping[str, int]) -> dict[str, Callable[[bool], Encoder]]:
    """What makes the encoders, of the codings that are installed here, by their names.

    Each takes whether it is for an event stream. level: of some, in place of LEVELS. Raises
    ValueError.
    """
    for name, number in level.items():
        if name not in SCALES:
            raise ValueError(f"level is of {', '.join(SCALES)}, not {name!r}")
        least, most = SCALES[name]
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"the level of {name} is {least} to {most}, not {number!r}")
    found: dict[str, Callable[[bool], Encoder]] = {}
    for name, (kind, module) in _ALL.items():
        try:
            import_module(module)
        except ImportError:
            continue
        found[name] = _maker(kind, {**LEVELS, **level}[name])
    return found


def _maker(kind: type[Gzip | Zstd | Brotli], level: int) -> Callable[[bool], Encoder]:
    return lambda live: kind(level, live=live)
