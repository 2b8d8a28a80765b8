"""The exceptions of this package.

    VentoError
    ├── BodyError      (TypeError)        a body, or an item of one, cannot become bytes
    ├── EventError     (ValueError)       text/event-stream cannot carry an event
    ├── RouteError     (ValueError)       a route, mount or middleware is invalid
    ├── AppNotFound    (LookupError)      "module:app" names no WSGI application
    ├── NotExamined    (RuntimeError)     doctor or top cannot examine a URL or server
    ├── BrokerError    (RuntimeError)     a broker's log cannot be opened, read or written
    │   └── Lagged                        a subscriber read its events too slowly
    └── StreamAborted  (BrokenPipeError)  a response was broken off before its end
        └── ClientStalled                 its client stopped reading

Each also has a built-in base, in parentheses, so that code that does not know this package can
catch it. A fault of a request is a werkzeug.exceptions.HTTPException instead.
"""

from __future__ import annotations

import errno

__all__ = [
    "AppNotFound",
    "BodyError",
    "BrokerError",
    "ClientStalled",
    "EventError",
    "Lagged",
    "NotExamined",
    "RouteError",
    "StreamAborted",
    "VentoError",
]


class VentoError(Exception):
    """The base of all exceptions of this package."""


class BodyError(VentoError, TypeError):
    """A body, or an item of one, cannot become bytes. The message says what to use instead."""


class EventError(VentoError, ValueError):
    """An event cannot be written as text/event-stream, or is larger than allowed."""


class RouteError(VentoError, ValueError):
    """A route, mount or middleware is invalid. Raised when it is registered."""


class AppNotFound(VentoError, LookupError):
    """An import string names no WSGI application. The message says what it found."""


class NotExamined(VentoError, RuntimeError):
    """``vento-wsgi doctor`` or ``top`` cannot examine a URL or server. The message says why."""


class BrokerError(VentoError, RuntimeError):
    """A broker's log cannot be opened, read or written. The message says what to do.

    It is no OSError, because servers take that for a client that left, and log nothing.
    """


class Lagged(BrokerError):
    """A subscriber read its events so slowly that its backlog is full.

    It can continue without loss: ``subscribe(*topics, after=subscription.last_id)``. If the source
    of a stream raises it, the client is too slow, and the stream ends as ``stalled``.
    """


class StreamAborted(VentoError, BrokenPipeError):
    """Raised by the iterator of a response, so that the server breaks off the connection.

    The cause has already been logged. The exception is a broken pipe (EPIPE), because servers take
    that for a client that left: they close the connection without the final chunk, and log
    nothing.
    """

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPIPE, why)


class ClientStalled(StreamAborted):
    """The client read nothing of a response for send_timeout seconds."""

    def __init__(self) -> None:
        super().__init__("the client stopped reading")
