"""Stream: the one WSGI iterable, and how it ends.

A WSGI server iterates it, writes each chunk, and calls ``close()`` once. Each stream ends
once, for one reason, and at that moment, whichever call brings it about, its source is closed:

    the source is exhausted                   exhausted      the server frames the end
    the server closes before that             disconnected   the client left, or the server stops
    the source raises                         failed         logged; the connection breaks off
    the body is not as long as its
    Content-Length said                       failed         logged; the connection breaks off

"Breaks off" is StreamAborted out of ``__next__``: PEP 3333 has no other way to tell a server
that headers are gone and the body will never be whole. The final chunk, or the last bytes of
Content-Length, stay away, so that no client takes half a body for a whole one (RFC 9112,
section 8). An event stream gets an ``error`` event first.

The first item is an empty chunk, or a comment in an event stream: with it the headers leave
before the source has made anything (on most servers; see Response for the others).
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator

from . import sse
from .exceptions import StreamAborted

__all__ = ["CloseReason", "Stream"]

log = logging.getLogger(__name__)

_FAILED = sse.Event("The stream failed.", event="error").encode()


class CloseReason(str, enum.Enum):
    """Why a stream ended."""

    EXHAUSTED = "exhausted"
    DISCONNECTED = "disconnected"
    FAILED = "failed"

    __str__ = str.__str__


class Stream(Iterator[bytes]):
    """The chunks of a response for a WSGI server, with one ending.

    chunks: bytes, none of them empty.
    close: frees the source; called once, at the ending.
    route: what the log calls the stream.
    event_stream: whether a comment opens it and an ``error`` event tells of a failure.
    length: the Content-Length in bytes, where one was sent: never more, and less is a failure.
    """

    __slots__ = ("_chunks", "_close", "_event_stream", "_left", "_opened", "_route", "reason")

    def __init__(
        self,
        chunks: Iterator[bytes],
        close: Callable[[], object],
        *,
        route: str,
        event_stream: bool = False,
        length: int | None = None,
    ) -> None:
        self._chunks = chunks
        self._close = close
        self._route = route
        self._event_stream = event_stream
        self._left = length
        self._opened = False
        self.reason: CloseReason | None = None

    def __next__(self) -> bytes:
        if self.reason is not None:
            if self.reason is CloseReason.FAILED:
                raise StreamAborted(f"{self._route} failed")
            raise StopIteration
        if not self._opened:
            self._opened = True
            return sse.OPENING if self._event_stream else b""
        try:
            chunk = next(self._chunks)
        except StopIteration:
            if self._left:
                self._fail(f"the body ended {self._left} bytes short of its Content-Length")
            self._end(CloseReason.EXHAUSTED)
            raise
        except StreamAborted:
            self._end(CloseReason.FAILED)
            raise
        except Exception:
            log.exception("%s failed in mid-stream", self._route)
            self._end(CloseReason.FAILED)
            if self._event_stream and self._left is None:
                return _FAILED
            raise StreamAborted(f"{self._route} failed") from None
        return chunk if self._left is None else self._measured(chunk, self._left)

    def _measured(self, chunk: bytes, left: int) -> bytes:
        if len(chunk) <= left:
            self._left = left - len(chunk)
            return chunk
        log.error("%s: the body is longer than its Content-Length; the rest is cut", self._route)
        self._end(CloseReason.FAILED)
        if left == 0:
            raise StreamAborted(f"{self._route} failed")
        return chunk[:left]

    def _fail(self, why: str) -> None:
        log.error("%s: %s", self._route, why)
        self._end(CloseReason.FAILED)
        raise StreamAborted(f"{self._route}: {why}")

    def _end(self, reason: CloseReason) -> None:
        self.reason = reason
        log.debug("%s ended: %s", self._route, reason)
        try:
            self._close()
        except Exception:
            log.exception("%s: closing its source failed", self._route)

    def close(self) -> None:
        """Called by the server when it is done with the stream, whatever happened."""
        if self.reason is None:
            self._end(CloseReason.DISCONNECTED)
