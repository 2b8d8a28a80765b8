"""Everything that vento_wsgi raises on its own account.

    VentoError
    ├── BodyError      (TypeError)        a body, or an item of one, that cannot become bytes
    ├── EventError     (ValueError)       an event that text/event-stream cannot carry
    ├── RouteError     (ValueError)       a route, mount or middleware that cannot be used
    ├── AppNotFound    (LookupError)      "module:app" leads to no WSGI application
    ├── NotExamined    (RuntimeError)     a URL, or a server, that nothing can be seen of
    ├── BrokerError    (RuntimeError)     a broker's log that cannot be opened, read or written
    │   └── Lagged                        because its subscriber took its events too slowly
    └── StreamAborted  (BrokenPipeError)  ends a response whose body is not whole
        └── ClientStalled                 because its client stopped reading

What is wrong with a request is said with werkzeug.exceptions.HTTPException.
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
    """The root: catches all of ours and nothing else."""


class BodyError(VentoError, TypeError):
    """A body, or an item of one, that cannot become bytes; says what to use instead."""


class EventError(VentoError, ValueError):
    """An event that text/event-stream cannot carry, or that is larger than allowed."""


class RouteError(VentoError, ValueError):
    """A route, mount or middleware that cannot be used, said when it is registered."""


class AppNotFound(VentoError, LookupError):
    """An import string that leads to no WSGI application; says what is there."""


class NotExamined(VentoError, RuntimeError):
    """A URL, or a server, that ``vento-wsgi doctor`` or ``top`` cannot look at; says why."""


class BrokerError(VentoError, RuntimeError):
    """A broker's log that cannot be opened, read or written; says what to do.

    No OSError: servers take one for a client that has left, and say nothing.
    """


class Lagged(BrokerError):
    """A subscriber took its events so slowly that its backlog is full.

    It can go on without loss: ``subscribe(*topics, after=subscription.last_id)``. Raised out of
    the source of a stream, it means that the client is too slow: the stream is `stalled`.
    """


class StreamAborted(VentoError, BrokenPipeError):
    """Raised out of a response's iterator to make the server break the connection off.

    The cause has been logged by then. As a broken pipe (EPIPE) it is what servers expect
    of a connection that ended early: they close it, leave the final chunk out, and log
    nothing more.
    """

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPIPE, why)


class ClientStalled(StreamAborted):
    """The client took nothing of a response for its send_timeout."""

    def __init__(self) -> None:
        super().__init__("the client stopped reading")
