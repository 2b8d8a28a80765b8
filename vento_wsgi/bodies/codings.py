"""Content codings: how the pieces of a body become gzip, zstd or br (RFC 9110, section 8.4.1).

Coding is the last step before the server. Each write is encoded and flushed (chunks, the opening
comment, a heartbeat, an ``error`` event, the drain's ``retry:``), so that the client can decode
all that it has. A clean end includes the end of the coding, in the last piece if that is known
to be the last. A stream that breaks off has neither this nor the last chunk of HTTP.

Memory of an open stream, and the size of its bytes, measured with JSON events of 110 bytes:

    coding                       event streams                  other streams, and files
    gzip (zlib)                  4 KiB window, 36 KB, to 26 %   32 KiB window, 268 KB
    zstd (zstandard)             16 KiB window, 89 KB, to 31 %  128 KiB window, 1.3 MB
    br (brotli)                  64 KiB window, 302 KB, to 30 % 256 KiB window, 1.9 MB

Events resemble those right before them, and thousands of event streams are open at once. zlib's
largest window and tables would take 101 KB a stream, for 24 % instead of 26. So event streams
have small windows, and gzip if the client takes several codings. A body that ends gets the
coding that makes it smallest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..streaming.stream import Encoder

__all__ = ["LEVELS", "encoders"]

LEVELS = {"gzip": 6, "zstd": 3, "br": 5}
"""The default levels. Above them, a level costs more time than its bytes are worth."""

SCALES = {"gzip": (1, 9), "zstd": (1, 12), "br": (2, 9)}
"""The levels that are allowed. Lower ones find no repetition in small pieces, and higher ones
take many times the memory.
"""


class Gzip:
    """RFC 1952. Memory in bytes: 4 << window bits, and 512 << memory level."""

    def __init__(self, level: int, *, live: bool) -> None:
        window, memory = (12, 5) if live else (15, 8)
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, 16 + window, memory)

    def encode(self, piece: bytes) -> bytes:
        return self._zlib.compress(piece) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def finish(self, piece: bytes = b"") -> bytes:
        return self._zlib.compress(piece) + self._zlib.flush()


class Zstd:
    """RFC 8878: one frame of several blocks. Browsers accept windows up to 8 MB (RFC 9659)."""

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
    """Functions that make an encoder, by the name of the coding, for those that are installed.

    Each takes whether it is for an event stream. level: levels of some codings, instead of
    LEVELS. Raises ValueError.
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
