"""The codings of HTTP that clients know, and what decodes them."""

from __future__ import annotations

import zlib

import brotli  # type: ignore[import-untyped]
import zstandard

CODINGS = ("gzip", "zstd", "br")


class Decoder:
    """Decodes bytes as they arrive; `ended` is true after the end of the coding."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._zlib = zlib.decompressobj(31)
        self._br = brotli.Decompressor()
        self._zstd = zstandard.ZstdDecompressor().decompressobj()

    def __call__(self, data: bytes) -> bytes:
        if self.coding == "gzip":
            return self._zlib.decompress(data)
        decoded: bytes
        if self.coding == "br":
            decoded = self._br.process(data)
            while more := self._br.process(b""):  # it stops where its output buffer is full
                decoded += more
        else:
            decoded = self._zstd.decompress(data) if data else b""
        return decoded

    @property
    def ended(self) -> bool:
        if self.coding == "gzip":
            return self._zlib.eof
        return bool(self._br.is_finished() if self.coding == "br" else self._zstd.eof)
